#[derive(Clone, Copy)]
#[repr(C)]
struct Sample {
    channel: u8,
    level: f64,
}

fn main() -> mp::Result<()> {
    let sample = Sample {
        channel: 1,
        level: 0.5,
    };
    let _last = mp::Value::new(sample)?;
    let _ = (sample.channel, sample.level);
    Ok(())
}
