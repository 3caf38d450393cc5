//! Two processes that hand over to each other by a primitive, there and back, as often as they can:
//! beside a bare futex, which is the least that two who sleep can do, and Python's.
//!
//! Both sides are pinned, on one CPU and on two, because waking somebody on another CPU costs so
//! much more that where the scheduler puts them would decide alone.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::ensure;
use mp::{Barrier, Child, Condition, Event, Process, Queue, Semaphore, Value};
use serde::{Deserialize, Serialize};

use crate::latency::{Futex, Place, mean_of};
use crate::race::{Race, Results, Sample, Target, Unit};
use crate::word::{self, Words};
use crate::{Plan, pin};

/// What two hand over to each other by.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Tool {
    Semaphore([Semaphore; 2]),
    Event([Event; 2]),
    /// The number says whose turn it is.
    Condition(Value<u64>, Condition),
    Barrier(Barrier),
    /// The least that a barrier of two can be: how many came, and a futex that the second changes.
    BareBarrier(PathBuf),
}

/// One of the two sides, the caller's or the partner's.
struct Side {
    number: usize,
    tool: Tool,
    words: Option<Words>,
}

impl Side {
    fn new(number: usize, tool: Tool) -> mp::Result<Self> {
        let words = match &tool {
            Tool::BareBarrier(path) => Some(Words::open(path).map_err(mp::AnyError::from)?),
            _ => None,
        };
        Ok(Self {
            number,
            tool,
            words,
        })
    }

    /// Lets the other side go on.
    fn give(&self) -> mp::Result<()> {
        match &self.tool {
            Tool::Semaphore(semaphores) => semaphores[1 - self.number].release(),
            Tool::Event(events) => events[1 - self.number].set(),
            Tool::Condition(turn, changed) => {
                *turn.lock()? = 1 - self.number as u64;
                changed.notify_one();
            }
            Tool::Barrier(_) | Tool::BareBarrier(_) => self.meet()?,
        }
        Ok(())
    }

    /// Waits until the other side has given.
    fn take(&self) -> mp::Result<()> {
        match &self.tool {
            Tool::Semaphore(semaphores) => semaphores[self.number].acquire().consume(),
            Tool::Event(events) => {
                events[self.number].wait();
                events[self.number].clear();
            }
            Tool::Condition(turn, changed) => {
                let is_theirs = |turn: &mut mp::Guard<'_, u64>| **turn != self.number as u64;
                drop(changed.wait_while(turn.lock()?, is_theirs)?);
            }
            Tool::Barrier(_) | Tool::BareBarrier(_) => self.meet()?,
        }
        Ok(())
    }

    fn meet(&self) -> mp::Result<()> {
        match (&self.tool, &self.words) {
            (Tool::Barrier(barrier), _) => {
                barrier.wait()?;
            }
            (_, Some(words)) => {
                let passes = words.futex().load(Ordering::Acquire);
                if words.count().fetch_add(1, Ordering::AcqRel) % 2 == 1 {
                    word::hand_over(words.futex(), passes.wrapping_add(1));
                } else {
                    word::await_change(words.futex(), passes);
                }
            }
            _ => unreachable!("only barriers meet"),
        }
        Ok(())
    }
}

pub(crate) fn semaphore(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    race(plan, "semaphore", 0, || {
        Ok(Tool::Semaphore([Semaphore::new(0)?, Semaphore::new(0)?]))
    })
}

pub(crate) fn event(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    race(plan, "event", 1, || {
        Ok(Tool::Event([Event::new()?, Event::new()?]))
    })
}

pub(crate) fn condition(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    race(plan, "condition", 2, || {
        Ok(Tool::Condition(Value::new(0)?, Condition::new()?))
    })
}

/// Two passes of a barrier of two: in each the one that comes last wakes the other.
pub(crate) fn barrier(plan: &Plan) -> anyhow::Result<Vec<Results>> {
    race(plan, "barrier", 3, || Ok(Tool::Barrier(Barrier::new(2)?)))
}

fn race(
    plan: &Plan,
    name: &str,
    python_number: u64,
    tool: impl Fn() -> mp::Result<Tool>,
) -> anyhow::Result<Vec<Results>> {
    let mut results = Vec::new();
    for place in [Place::OneCpu, Place::TwoCpus] {
        let Some((here, there)) = place.cpus()? else {
            eprintln!("{name}{} is left out: there is one CPU", place.name());
            continue;
        };
        let before = pin::allowed()?;
        pin::restrict(&here)?;
        let title = format!("{name}, handed over and back{}", place.name());
        let mut race = Race::new(title, Unit::Microseconds);
        let count = plan.count(2000, 10);

        let mut partner = pin::on(&there, || Partner::start(tool()?))??;
        race.enter(
            format!("mp {}", name[..1].to_uppercase() + &name[1..]),
            move || partner.measure(count),
        );

        if name == "barrier" {
            let file = Words::file()?;
            let tool = Tool::BareBarrier(file.to_path_buf());
            let mut partner = pin::on(&there, || Partner::start(tool))??;
            race.enter("a barrier of a bare futex", move || {
                let _kept = &file;
                partner.measure(count)
            });
            race.limit();
        }

        let mut futex = Futex::start(&there)?;
        race.enter("a bare futex", move || {
            mean_of(count, |x| Ok(futex.call(x)))
        });
        if name != "condition" {
            race.target(Target::Ratio(1.3));
        }

        // Its other process is pinned where it is itself.
        if let (Some(python), Place::OneCpu) = (&plan.python, place) {
            let mut peer = python.start("handover", &[python_number])?;
            race.enter("Python", move || peer.measure(count));
        }
        let result = race.run(plan);
        pin::restrict(&before)?;
        results.push(result?);
    }
    Ok(results)
}

/// Takes and gives as often as it is told.
#[mp::task]
fn partner(tool: Tool, counts: Queue<u64>, sums: Queue<u64>) -> mp::Result<()> {
    let side = Side::new(1, tool)?;
    for count in &counts {
        let mut taken = 0;
        for _ in 0..count {
            side.take()?;
            taken += 1;
            side.give()?;
        }
        sums.put(taken)?;
    }
    Ok(())
}

/// The other process. Dropping it ends it.
struct Partner {
    side: Side,
    counts: Queue<u64>,
    sums: Queue<u64>,
    process: Child<mp::Result<()>>,
}

impl Partner {
    fn start(tool: Tool) -> anyhow::Result<Self> {
        let (counts, sums) = (Queue::new()?, Queue::new()?);
        let arguments = (tool.clone(), counts.clone(), sums.clone());
        Ok(Self {
            process: Process::new(partner, arguments).start()?,
            side: Side::new(0, tool)?,
            counts,
            sums,
        })
    }

    fn measure(&mut self, count: u64) -> anyhow::Result<Sample> {
        self.counts.put(count)?;
        let (sample, done) = Sample::of(count, || {
            for _ in 0..count {
                self.side.give()?;
                self.side.take()?;
            }
            Ok::<_, mp::Error>(())
        });
        done?;
        ensure!(self.sums.get()? == count, "the other side lost count");
        Ok(sample)
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.counts.close();
        let _ = self.process.join();
    }
}
