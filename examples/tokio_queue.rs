//! A queue of `mp` awaited in tokio, beside a timer: `cargo run --release --example tokio_queue`
//!
//! A queue gives a descriptor that becomes readable when there is something to get. tokio waits for
//! it as for any other, so no thread is blocked, however many queues there are.

use std::error::Error;
use std::time::Duration;

use mp::{Descriptor, Process, Queue, TryGetError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Gets values of a queue without blocking a thread.
struct AsyncQueue<T> {
    queue: Queue<T>,
    ready: AsyncFd<Descriptor>,
}

impl<T: mp::Transfer> AsyncQueue<T> {
    fn new(queue: Queue<T>) -> Result<Self, Box<dyn Error>> {
        let descriptor = queue.descriptor()?;
        // SAFETY: a `Descriptor` owns one descriptor, which stays open until it is dropped, and
        // that is in `AsyncFd`'s hands.
        let ready = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        Ok(Self { queue, ready })
    }

    /// The next value; `None` once the queue is closed and empty.
    async fn get(&self) -> Result<Option<T>, Box<dyn Error>> {
        loop {
            match self.queue.try_get() {
                Ok(value) => return Ok(Some(value)),
                Err(TryGetError::Closed) => return Ok(None),
                Err(TryGetError::Empty) => {}
                Err(error) => return Err(error.into()),
            }
            // Nothing is left: readable again from the next value on, or at once if it has come
            // in between.
            self.ready.get_ref().clear();
            self.ready.readable().await?.clear_ready();
        }
    }
}

/// Puts a word now and then.
#[mp::task]
fn speak(words: Queue<String>) -> Result<(), mp::AnyError> {
    for word in [
        "all", "good", "things", "come", "to", "those", "who", "await",
    ] {
        std::thread::sleep(Duration::from_millis(20));
        words.put(word.to_owned())?;
    }
    words.close();
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words = Queue::new()?;
    let child = Process::new(speak, (words.clone(),)).start()?;

    let queue = AsyncQueue::new(words)?;
    let mut timer = tokio::time::interval(Duration::from_millis(5));
    let (mut heard, mut ticks) = (Vec::new(), 0);
    loop {
        tokio::select! {
            word = queue.get() => match word? {
                Some(word) => {
                    println!("{word}");
                    heard.push(word);
                }
                None => break,
            },
            _ = timer.tick() => ticks += 1,
        }
    }
    child.join()??;
    assert_eq!(heard.len(), 8);
    assert!(ticks > 0, "the timer had no turn");
    println!("and the timer had its turns");
    Ok(())
}
