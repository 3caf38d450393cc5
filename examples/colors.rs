//! A queue gives back what was put into it, first in, first out: `cargo run --example colors`

use mp::Queue;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let colors = ["red", "green", "blue", "black"];
    let queue = Queue::new()?;

    println!("pushing items to queue:");
    for (number, color) in (1..).zip(colors) {
        println!("item no:  {number}   {color}");
        queue.put(color.to_owned())?;
    }

    println!("\npopping items from queue:");
    let mut popped = Vec::new();
    while !queue.is_empty() {
        // Nobody else gets from this queue; with a rival it would be try_get().
        let color: String = queue.get()?;
        println!("item no:  {}   {color}", popped.len());
        popped.push(color);
    }

    assert_eq!(popped, colors);
    Ok(())
}
