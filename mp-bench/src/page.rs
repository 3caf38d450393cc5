//! The report as one page with a picture for each subject: `--html FILE`.

use std::fmt::Write as _;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::race::Results;
use crate::report::{Report, Spread, number, ratios};

const WIDTH: u32 = 940;
const BAR: u32 = 30;
/// Where the bars begin, and how long the longest is.
const LEFT: i32 = 300;
const SPAN: i32 = 330;
const OURS: RGBColor = RGBColor(0x1F, 0x6F, 0xB4);
const THEIRS: RGBColor = RGBColor(0xB8, 0xBE, 0xC6);
const INK: RGBColor = RGBColor(0x22, 0x2B, 0x36);

const STYLE: &str = "\
body { font: 16px/1.5 system-ui, sans-serif; color: #222b36; max-width: 960px; margin: 2em auto; padding: 0 1em }
h1 { font-weight: 600 } h2 { font-size: 1.05em; margin: 2em 0 0 } p.how { color: #66707c; margin: 0 }
svg { width: 100%; height: auto } ";

/// Writes the page. It refers to nothing outside of itself.
pub(crate) fn write(report: &Report) -> anyhow::Result<String> {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">");
    write!(
        page,
        "<title>How fast is mp?</title><style>{STYLE}</style>\n<h1>How fast is mp?</h1>\n<p>{}</p>\n\
         <p>Bars are medians, whiskers the middle half of the rounds. The number behind is how many \
         times as long <b>mp</b> takes, or as much, within a round: below 1 it wins.</p>\n",
        escape(&report.circumstances())
    )?;
    if let Some(verdict) = report.verdict() {
        for part in verdict.split("\n\n") {
            match part.strip_prefix("- ") {
                None => writeln!(page, "<p>{}</p>", escape(part))?,
                Some(items) => {
                    let items = escape(items).replace("\n- ", "</li><li>");
                    writeln!(page, "<ul><li>{items}</li></ul>")?;
                }
            }
        }
    }
    for subject in &report.subjects {
        let better = if subject.unit.is_more_better() {
            "longer is better"
        } else {
            "shorter is better"
        };
        let unit = subject.unit.name();
        let comma = if unit.is_empty() { "" } else { ", " };
        let spreads: Vec<_> = subject
            .entrants
            .iter()
            .map(|entrant| Spread::of(entrant.samples.iter().map(|&s| subject.unit.of(s))))
            .collect();
        let scale = Scale::of(&spreads);
        let how = if scale.is_logarithmic {
            ", on a logarithmic scale"
        } else {
            ""
        };
        writeln!(
            page,
            "<h2>{}</h2><p class=\"how\">{unit}{comma}{better}{how}</p>\n{}",
            escape(&subject.title),
            picture(subject, &spreads, &scale)?
        )?;
    }
    Ok(page)
}

/// Bars side by side, one for each entrant.
fn picture(subject: &Results, spreads: &[Spread], scale: &Scale) -> anyhow::Result<String> {
    let height = BAR * subject.entrants.len() as u32 + 8;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        for (row, (entrant, spread)) in subject.entrants.iter().zip(spreads).enumerate() {
            let top = (row as u32 * BAR) as i32 + 6;
            let middle = top + 10;
            let color = if row == 0 { OURS } else { THEIRS };
            let end = scale.place(spread.median);
            area.draw(&Rectangle::new(
                [(LEFT, top), (end, top + 20)],
                color.filled(),
            ))?;
            let whisker = [
                (scale.place(spread.lower), middle),
                (scale.place(spread.upper), middle),
            ];
            area.draw(&PathElement::new(whisker, INK.stroke_width(1)))?;
            let text = |size| ("sans-serif", size).into_font().color(&INK);
            let name = text(14).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(entrant.name.as_str(), (LEFT - 8, middle), name))?;
            let mut figure = format!("{} {}", number(spread.median), subject.unit.name());
            if row > 0 {
                let ratio = ratios(&subject.entrants[0], entrant).median;
                write!(figure, " · {} ×", number(ratio))?;
            }
            let target = subject.target(row);
            if !target.is_empty() {
                write!(figure, " · {target}")?;
            }
            let behind = scale.place(spread.upper).max(end) + 8;
            let style = text(14).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(figure, (behind, middle), style))?;
        }
        area.present()?;
    }
    Ok(svg)
}

/// From figures to places, logarithmic where the figures differ by much.
struct Scale {
    least: f64,
    most: f64,
    is_logarithmic: bool,
}

impl Scale {
    fn of(spreads: &[Spread]) -> Self {
        let most = spreads.iter().map(|s| s.upper).fold(0.0, f64::max);
        let least = spreads
            .iter()
            .map(|s| s.lower)
            .filter(|&lower| lower > 0.0)
            .fold(f64::INFINITY, f64::min);
        Self {
            least: least.min(most) / 2.0,
            most,
            is_logarithmic: most > 20.0 * least,
        }
    }

    fn place(&self, figure: f64) -> i32 {
        let share = if !(figure > 0.0 && self.most > 0.0) {
            0.0
        } else if self.is_logarithmic {
            (figure / self.least).ln() / (self.most / self.least).ln()
        } else {
            figure / self.most
        };
        LEFT + (share.clamp(0.0, 1.0) * f64::from(SPAN)) as i32
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
