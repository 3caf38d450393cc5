//! The timeline as Chrome's trace events: an object with a list, each entry a complete event of a
//! thread. The format is Google's "Trace Event Format" of 2016.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::Picture;

pub(super) fn write(path: &Path, picture: &Picture<'_>) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write_to(&mut out, picture)?;
    out.flush()
}

fn write_to(out: &mut impl Write, picture: &Picture<'_>) -> io::Result<()> {
    let program = std::process::id();
    write!(
        out,
        "{{\"otherData\":{{\"spans left out\":\"{}\"}},\"traceEvents\":[",
        picture.dropped
    )?;
    let mut comma = "\n";
    for lane in picture.lanes {
        write!(
            out,
            "{comma}{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{program},\"tid\":{},\
             \"args\":{{\"name\":{}}}}}",
            lane.pid,
            Quoted(&format!("{} ({})", lane.name, lane.pid))
        )?;
        comma = ",\n";
    }
    for (number, (lane, span)) in picture.spans.iter().enumerate() {
        let Some(lane) = picture.lanes.get(*lane as usize) else {
            continue;
        };
        write!(
            out,
            "{comma}{{\"ph\":\"X\",\"name\":{},\"cat\":\"task\",\"pid\":{program},\"tid\":{},\
             \"ts\":{:.3},\"dur\":{:.3},\"args\":{{\"items\":{},\"outcome\":\"{}\",\"caller\":{}}}}}",
            Quoted(&span.task),
            lane.pid,
            picture.at(span.began),
            picture.at(span.ended) - picture.at(span.began),
            Quoted(&Picture::label(span)),
            if span.is_done { "done" } else { "failed" },
            Quoted(&Picture::caller(span)),
        )?;
        comma = ",\n";
        if let Some(caller) = &span.caller {
            // An arrow, from within the bar of the task that called to this one's beginning.
            write!(
                out,
                "{comma}{{\"ph\":\"s\",\"id\":{number},\"name\":\"call\",\"cat\":\"call\",\
                 \"pid\":{program},\"tid\":{},\"ts\":{:.3}}}\
                 {comma}{{\"ph\":\"f\",\"bp\":\"e\",\"id\":{number},\"name\":\"call\",\"cat\":\"call\",\
                 \"pid\":{program},\"tid\":{},\"ts\":{:.3}}}",
                caller.lane.pid,
                picture.at(caller.at),
                lane.pid,
                picture.at(span.began),
            )?;
        }
    }
    writeln!(out, "\n]}}")
}

/// A text as JSON has it.
struct Quoted<'a>(&'a str);

impl std::fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write as _;
        f.write_char('"')?;
        for char in self.0.chars() {
            match char {
                '"' | '\\' => write!(f, "\\{char}")?,
                '\0'..='\x1F' => write!(f, "\\u{:04x}", char as u32)?,
                _ => f.write_char(char)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Caller, Lane, Span};
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(Quoted("a\"b\\c\nd").to_string(), r#""a\"b\\c\u000ad""#);
    }

    #[test]
    fn each_span_is_an_event_of_its_lane() {
        let lanes = [Lane {
            name: "Worker-1".to_owned(),
            pid: 7,
        }];
        let span = Span {
            task: "app::f".to_owned(),
            began: 2_000,
            ended: 5_500,
            items: 3..4,
            is_done: true,
            caller: Some(Caller {
                lane: Lane {
                    name: "Worker-2".to_owned(),
                    pid: 8,
                },
                at: 1_500,
            }),
        };
        let picture = Picture {
            began: 1_000,
            lanes: &lanes,
            spans: &[(0, span)],
            dropped: 0,
        };
        let mut out = Vec::new();
        write_to(&mut out, &picture).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("\"tid\":7,\"ts\":1.000,\"dur\":3.500"),
            "{text}"
        );
        assert!(
            text.contains("\"items\":\"item 3\",\"outcome\":\"done\",\"caller\":\"Worker-2 (8)\""),
            "{text}"
        );
        assert!(text.contains("\"tid\":8,\"ts\":0.500}"), "{text}");
        assert!(text.contains("\"tid\":7,\"ts\":1.000}"), "{text}");
        assert!(
            text.contains("\"args\":{\"name\":\"Worker-1 (7)\"}"),
            "{text}"
        );
    }
}
