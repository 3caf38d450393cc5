//! A process without an argument, and processes with one: `cargo run --example continents`

/// Prints one line and returns the name it was given.
#[mp::task]
fn print_continent(name: Option<String>) -> String {
    let name = name.unwrap_or_else(|| "Asia".to_owned());
    println!("The name of continent is :  {name}");
    name
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Nothing runs before start().
    let mut children = vec![mp::Process::new(print_continent, (None,)).start()?];
    for name in ["America", "Europe", "Africa"] {
        let process = mp::Process::new(print_continent, (Some(name.to_owned()),));
        children.push(process.start()?);
    }

    // The lines come in any order; each result comes from its own child.
    let mut printed = Vec::new();
    for child in children {
        printed.push(child.join()?);
    }
    assert_eq!(printed, ["Asia", "America", "Europe", "Africa"]);
    Ok(())
}
