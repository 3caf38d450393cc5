//! Renders the Mandelbrot set by rows, in the workers of a pool, to a PNG:
//! `cargo run --release --example mandelbrot -- [OUT.png] [--width W] [--height H] [--workers N]`
//!
//! Rows differ by far in what they cost: those through the middle of the set take thousands of steps
//! a point. The workers take them as they can, and the picture is put together in order. In the end
//! a few points are computed here as well, and compared.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use image::{Rgb, RgbImage};
use indicatif::ProgressIterator;
use mp::Pool;
use serde::{Deserialize, Serialize};

/// Renders the Mandelbrot set.
#[derive(Parser)]
struct Options {
    /// Where the picture goes.
    #[arg(default_value = "mandelbrot.png")]
    out: PathBuf,
    /// Points in a row.
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(1..))]
    width: u32,
    /// Rows.
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..))]
    height: u32,
    /// Worker processes; as many as there are CPUs unless given.
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
}

/// Steps after which a point counts as one of the set.
const MOST: u32 = 2000;

/// Where in the plane the picture lies.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct View {
    width: u32,
    height: u32,
}

impl View {
    /// The point of the plane below a point of the picture.
    fn point(self, x: u32, y: u32) -> (f64, f64) {
        // 3 wide, and as high as the picture is.
        let scale = 3.0 / f64::from(self.width);
        let centred = |at: u32, all: u32| f64::from(at) - f64::from(all) / 2.0;
        (
            -0.7 + centred(x, self.width) * scale,
            centred(y, self.height) * scale,
        )
    }

    fn color(self, x: u32, y: u32) -> Rgb<u8> {
        let (re, im) = self.point(x, y);
        let (mut a, mut b) = (0.0_f64, 0.0_f64);
        for step in 0..MOST {
            let (aa, bb) = (a * a, b * b);
            // Far enough out for the shade to be smooth.
            if aa + bb > 1e4 {
                let smooth = f64::from(step) + 1.0 - ((aa + bb).ln() / 2.0).ln() / 2.0_f64.ln();
                return shade(smooth);
            }
            (a, b) = (aa - bb + re, 2.0 * a * b + im);
        }
        Rgb([0, 0, 0])
    }
}

/// A colour that changes slowly with the number of steps.
fn shade(steps: f64) -> Rgb<u8> {
    let wave = |phase: f64| {
        let level = 0.5 + 0.5 * (0.7 * steps.max(0.0).sqrt() + phase).cos();
        (level * 255.0) as u8
    };
    Rgb([wave(3.6), wave(3.0), wave(2.2)])
}

/// The bytes of a row.
#[mp::task]
fn render_row(view: View, y: u32) -> Vec<u8> {
    (0..view.width).flat_map(|x| view.color(x, y).0).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let (width, height) = (options.width, options.height);
    let view = View { width, height };
    let workers = options.workers.unwrap_or_else(mp::cpu_count);

    let start = Instant::now();
    let pool = Pool::new(workers)?;
    let rows = (0..height).progress().map(|y| (view, y));
    let pixels = pool.starmap(render_row, rows)?.concat();
    let seconds = start.elapsed().as_secs_f64();

    let image = RgbImage::from_raw(width, height, pixels).ok_or("a row is too short")?;
    for i in 0..16 {
        let (x, y) = (i * width / 16, i * height / 16);
        assert_eq!(*image.get_pixel(x, y), view.color(x, y), "at {x}, {y}");
    }
    image.save(&options.out)?;
    println!(
        "{width} × {height} points by {workers} workers in {seconds:.2} s: {}",
        options.out.display()
    );
    Ok(())
}
