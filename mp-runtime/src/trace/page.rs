//! The timeline as one page that refers to nothing outside: a lane for each process, a bar for each
//! job, wide enough to be seen, and a line to each that another process's task asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{Caller, Picture, Span};

/// The picture's width and where its lanes begin, and a lane's height, in its own units.
const WIDTH: f64 = 1600.0;
const LEFT: f64 = 170.0;
const LANE: f64 = 26.0;
/// Bars that are closer than this are drawn as one, so that a million of them stay a small file.
const CLOSE: f64 = 0.4;

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>mp timeline</title>\n\
<style>\
body { font: 15px/1.5 system-ui, sans-serif; color: #222b36; margin: 2em } \
svg { width: 100%; height: auto; font-size: 12px } \
rect.failed { stroke: #c0261c; stroke-width: 1.5 } \
path { stroke: #222b36; stroke-width: 0.8; opacity: 0.5 } \
td { padding: 0 1em 0 0 } td.n { text-align: right; font-variant-numeric: tabular-nums } \
i { display: inline-block; width: 0.9em; height: 0.9em; margin-right: 0.5em }\
</style>\n<h1>Timeline</h1>\n";

pub(super) fn write(path: &Path, picture: &Picture<'_>) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write_to(&mut out, picture)?;
    out.flush()
}

/// What all spans of a task make together.
#[derive(Default)]
struct Total {
    items: u64,
    busy: f64,
    failed: u64,
}

fn write_to(out: &mut impl Write, picture: &Picture<'_>) -> io::Result<()> {
    let ends = picture.spans.iter().map(|(_, span)| picture.at(span.ended));
    let end = ends.fold(1.0, f64::max);
    let mut totals: BTreeMap<&str, Total> = BTreeMap::new();
    for (_, span) in picture.spans {
        let total = totals.entry(&span.task).or_default();
        total.items += span.items.end - span.items.start;
        total.busy += picture.at(span.ended) - picture.at(span.began);
        total.failed += u64::from(!span.is_done);
    }
    out.write_all(HEAD.as_bytes())?;
    writeln!(
        out,
        "<p>{} jobs on {} processes in {}. Bars with a red edge failed; \
         lines lead from a task to what it had its own pool do.{}</p>",
        picture.spans.len(),
        picture.lanes.len(),
        time(end),
        match picture.dropped {
            0 => String::new(),
            dropped => format!(" {dropped} more were not kept."),
        }
    )?;
    write_totals(out, &totals)?;
    write_lanes(out, picture, end)
}

fn write_totals(out: &mut impl Write, totals: &BTreeMap<&str, Total>) -> io::Result<()> {
    writeln!(
        out,
        "<table><tr><th>task<th>items<th>time<th>an item<th>failed"
    )?;
    for (task, total) in totals {
        writeln!(
            out,
            "<tr><td><i style=\"background:{}\"></i>{}<td class=\"n\">{}<td class=\"n\">{}\
             <td class=\"n\">{}<td class=\"n\">{}",
            color(task),
            escape(task),
            total.items,
            time(total.busy),
            time(total.busy / total.items.max(1) as f64),
            total.failed
        )?;
    }
    writeln!(out, "</table>")
}

fn write_lanes(out: &mut impl Write, picture: &Picture<'_>, end: f64) -> io::Result<()> {
    let scale = (WIDTH - LEFT) / end;
    let height = LANE * (picture.lanes.len() as f64 + 1.5);
    writeln!(out, "<svg viewBox=\"0 0 {WIDTH} {height}\">")?;
    for tick in 0..=10 {
        let x = LEFT + (WIDTH - LEFT) * f64::from(tick) / 10.0;
        let anchor = if tick == 10 { "end" } else { "middle" };
        writeln!(
            out,
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"18\" y2=\"{height}\" stroke=\"#e3e7eb\"/>\
             <text x=\"{x}\" y=\"13\" text-anchor=\"{anchor}\">{}</text>",
            time(end * f64::from(tick) / 10.0)
        )?;
    }
    let mut lanes: Vec<Vec<&Span>> = vec![Vec::new(); picture.lanes.len()];
    for (lane, span) in picture.spans {
        if let Some(lane) = lanes.get_mut(*lane as usize) {
            lane.push(span);
        }
    }
    let top_of = |index: usize| LANE * (index as f64 + 1.0);
    let mut calls = String::new();
    for (index, (lane, mut spans)) in picture.lanes.iter().zip(lanes).enumerate() {
        let top = top_of(index);
        let middle = top + LANE * 0.6;
        writeln!(
            out,
            "<text x=\"0\" y=\"{middle}\">{} ({})</text>",
            escape(&lane.name),
            lane.pid
        )?;
        spans.sort_by_key(|span| span.began);
        for bar in bars(picture, &spans, scale) {
            writeln!(
                out,
                "<rect{} x=\"{:.2}\" y=\"{}\" width=\"{:.2}\" height=\"{}\" fill=\"{}\"><title>{}</title></rect>",
                if bar.is_done { "" } else { " class=\"failed\"" },
                LEFT + bar.begin * scale,
                top + 3.0,
                ((bar.end - bar.begin) * scale).max(CLOSE),
                LANE - 6.0,
                color(bar.task),
                escape(&bar.text),
            )?;
            let from = |lane| picture.lanes.iter().position(|it| it == lane);
            if let Some(caller) = bar.caller
                && let Some(from) = from(&caller.lane)
            {
                let _ = write!(
                    calls,
                    "M{:.1} {:.1}L{:.1} {:.1}",
                    LEFT + picture.at(caller.at) * scale,
                    top_of(from) + LANE / 2.0,
                    LEFT + bar.begin * scale,
                    top + LANE / 2.0
                );
            }
        }
    }
    if !calls.is_empty() {
        writeln!(out, "<path d=\"{calls}\"/>")?;
    }
    writeln!(out, "</svg>")
}

/// One or more spans of a task that follow each other closely.
struct Bar<'a> {
    task: &'a str,
    begin: f64,
    end: f64,
    is_done: bool,
    /// Of the first.
    caller: Option<&'a Caller>,
    text: String,
    jobs: u64,
}

fn bars<'a>(picture: &Picture<'_>, spans: &[&'a Span], scale: f64) -> Vec<Bar<'a>> {
    let mut bars: Vec<Bar<'a>> = Vec::new();
    for span in spans {
        let (begin, end) = (picture.at(span.began), picture.at(span.ended));
        if let Some(last) = bars.last_mut()
            && last.task == span.task
            && last.is_done
            && span.is_done
            && last.caller.map(|caller| &caller.lane)
                == span.caller.as_ref().map(|caller| &caller.lane)
            && (begin - last.end) * scale < CLOSE
            && (end - begin) * scale < 4.0 * CLOSE
        {
            last.end = last.end.max(end);
            last.jobs += 1;
            last.text = format!(
                "{}: {} jobs, {}",
                last.task,
                last.jobs,
                time(last.end - last.begin)
            );
            continue;
        }
        let caller = match &span.caller {
            Some(_) => format!(", called by {}", Picture::caller(span)),
            None => String::new(),
        };
        let text = format!(
            "{}: {}, {}{caller}",
            span.task,
            Picture::label(span),
            time(end - begin)
        );
        bars.push(Bar {
            task: &span.task,
            begin,
            end,
            is_done: span.is_done,
            caller: span.caller.as_ref(),
            text,
            jobs: 1,
        });
    }
    bars
}

/// A hue that stays the same for a name.
fn color(task: &str) -> String {
    let hash = task.bytes().fold(17_u32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    format!("hsl({},55%,60%)", hash % 360)
}

/// Microseconds for people.
fn time(microseconds: f64) -> String {
    match microseconds {
        t if t >= 1e6 => format!("{:.2} s", t / 1e6),
        t if t >= 1e3 => format!("{:.1} ms", t / 1e3),
        t => format!("{t:.1} µs"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
