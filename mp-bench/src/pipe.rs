//! Messages through a pipe: small ones there and back, and large ones.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{bail, ensure};
use mp::{Connection, Process};

use crate::latency::{Futex, Place, mean_of};
use crate::race::{Race, Results, Sample, Unit};
use crate::{Plan, pin};

#[mp::task]
fn answer(end: Connection<u64, u64>) -> mp::Result<()> {
    for x in &end {
        end.send(x * x + 1)?;
    }
    Ok(())
}

pub(crate) fn round_trip(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let mut results = Vec::new();
    for place in [Place::OneCpu, Place::TwoCpus] {
        let title = format!("a pipe's message and its answer{}", place.name());
        let Some((here, there)) = place.cpus()? else {
            eprintln!("{title} is left out: there is one CPU");
            continue;
        };
        let before = pin::allowed()?;
        pin::restrict(&here)?;
        let mut race = Race::new(title, Unit::Microseconds);
        let count = plan.count(2000, 10);

        let (end, other) = mp::pipe::<u64, u64>()?;
        let child = pin::on(&there, || Process::new(answer, (other,)).start())??;
        race.enter("mp pipe", move || {
            mean_of(count, |x| {
                end.send(x)?;
                Ok(end.recv()?)
            })
        });
        let mut futex = Futex::start(&there)?;
        race.enter("a bare futex", move || {
            mean_of(count, |x| Ok(futex.call(x)))
        });
        // Its other process is pinned where it is itself.
        if let (Some(python), Place::OneCpu) = (&plan.python, place) {
            let mut peer = python.start("pipe", &[])?;
            race.enter("Python Pipe", move || peer.measure(count));
        }
        let result = race.run(plan);
        pin::restrict(&before)?;
        child.join()??;
        results.push(result?);
    }
    Ok(results)
}

/// Receives so many messages of that size, each of which begins with its number, and says so.
#[mp::task]
fn receive(end: Connection<u64, ()>, size: usize) -> mp::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        // The first message says how many follow.
        let Ok(head) = end.recv_bytes() else {
            return Ok(());
        };
        let count = number(&head);
        let mut right = 0;
        for index in 0..count {
            let len = end.recv_bytes_into(&mut buffer)?;
            right += u64::from(len == size && number(&buffer) == index);
        }
        end.send(right)?;
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(u64::MAX, |first| u64::from_le_bytes(*first))
}

/// Bytes from here to another process, by messages of a mebibyte.
pub(crate) fn large_messages(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    let size = plan.count(1 << 20, 1 << 16) as usize;
    let count = plan.count(256, 4);
    let title = format!("messages of {} KiB through a pipe", size >> 10);
    let mut race = Race::new(title, Unit::GigabytesPerSecond);
    let bytes = count * size as u64;

    let (end, other) = mp::pipe::<(), u64>()?;
    let child = Process::new(receive, (other, size)).start()?;
    let mut message = vec![7; size];
    race.enter("mp pipe, send_bytes", move || {
        let (sample, right) = Sample::of(bytes, || {
            end.send_bytes(&count.to_le_bytes())?;
            for index in 0..count {
                message[..8].copy_from_slice(&index.to_le_bytes());
                end.send_bytes(&message)?;
            }
            Ok::<_, mp::Error>(end.recv()?)
        });
        ensure!(right? == count, "a message is wrong");
        Ok(sample)
    });

    let mut message = vec![7; size];
    race.enter("a Unix socket, to a thread", move || {
        let (mut end, mut other) = UnixStream::pair()?;
        let (sample, right) = Sample::of(bytes, || {
            thread::scope(|scope| {
                let receiver = scope.spawn(move || {
                    let mut buffer = vec![0; size];
                    let mut right = 0;
                    for index in 0..count {
                        other.read_exact(&mut buffer)?;
                        right += u64::from(number(&buffer) == index);
                    }
                    Ok::<_, std::io::Error>(right)
                });
                for index in 0..count {
                    message[..8].copy_from_slice(&index.to_le_bytes());
                    end.write_all(&message)?;
                }
                match receiver.join() {
                    Ok(right) => Ok(right?),
                    Err(_) => bail!("a thread panicked"),
                }
            })
        });
        ensure!(right? == count, "a message is wrong");
        Ok(sample)
    });

    if let Some(python) = &plan.python {
        let mut peer = python.start("pipe-bytes", &[size as u64])?;
        race.enter("Python Pipe, send_bytes", move || peer.measure(count));
    }
    let result = race.run(plan)?;
    child.join()??;
    Ok(vec![result])
}
