//! The table of daxctl-rs/BENCHMARKS.md as bars.

use super::svg::{Anchor, Svg, Theme};
use crate::read;

const ROW: f64 = 24.0;
const LABELS: f64 = 500.0;
const WIDTH: f64 = 930.0;
const TOP: f64 = 62.0;
/// The ratios at the ends of the scale, which is logarithmic.
const SCALE: (f64, f64) = (0.25, 100.0);

/// `daxfile`'s time as a multiple of a peer's.
struct Bar {
    work: String,
    peer: String,
    ratio: f64,
    /// The ratio as the table has it.
    number: String,
}

/// One bar for each peer in each row of the table.
fn read_table() -> Vec<Bar> {
    let page = read("daxctl-rs/BENCHMARKS.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("| work | peer |")).skip(2);
    let mut bars: Vec<Bar> = Vec::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = row.split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect();
        let [_, work, peers, ratios, ..] = &cells[..] else { panic!("{row}: too few cells") };
        let (peers, ratios): (Vec<_>, Vec<_>) = (peers.split("; ").collect(), ratios.split("; ").collect());
        assert_eq!(peers.len(), ratios.len(), "{row}: peers and ratios");
        for (peer, ratio) in peers.into_iter().zip(ratios) {
            // A ratio may be followed by the memory that it took.
            let number = ratio.split(',').next().unwrap();
            let ratio = number.parse().unwrap_or_else(|e| panic!("{row}: {number}: {e}"));
            let peer = match bars.last() {
                Some(last) if peer == "the same" => last.peer.clone(),
                _ => peer.to_owned(),
            };
            bars.push(Bar { work: work.clone(), peer, ratio, number: number.to_owned() });
        }
    }
    assert!(bars.len() >= 10, "{} bars", bars.len());
    bars
}

pub(super) fn bars() -> impl Fn(&Theme) -> String {
    let bars = read_table();
    move |theme| draw(&bars, theme)
}

fn draw(bars: &[Bar], theme: &Theme) -> String {
    let count = f64::from(u32::try_from(bars.len()).unwrap());
    let bottom = TOP + ROW * count;
    let mut svg = Svg::new(theme, WIDTH, bottom + 40.0);
    let x_of = |ratio: f64| {
        let of_scale = (ratio / SCALE.0).ln() / (SCALE.1 / SCALE.0).ln();
        LABELS + of_scale.clamp(0.0, 1.0) * (WIDTH - LABELS - 40.0)
    };
    svg.bold((16.0, 26.0), Anchor::Start, theme.text, "Time of daxfile ÷ time of the other program");
    svg.text((x_of(1.0) - 8.0, 48.0), Anchor::End, theme.green, "faster");
    svg.text((x_of(1.0) + 8.0, 48.0), Anchor::Start, theme.yellow, "slower");
    for ratio in [0.5, 1.0, 2.0, 4.0, 10.0, 50.0] {
        let (x, color) = (x_of(ratio), if (ratio - 1.0).abs() < 0.01 { theme.text } else { theme.tint(theme.faint) });
        svg.line(&[(x, TOP - 6.0), (x, bottom + 6.0)], color);
        svg.text((x, bottom + 24.0), Anchor::Middle, theme.faint, &format!("{ratio}×"));
    }
    for (bar, row) in bars.iter().zip(0u32..) {
        let y = TOP + ROW * f64::from(row);
        svg.text((16.0, y + 16.0), Anchor::Start, theme.text, &bar.work);
        svg.text((LABELS - 12.0, y + 16.0), Anchor::End, theme.faint, &bar.peer);
        let (one, end) = (x_of(1.0), x_of(bar.ratio));
        let color = if bar.ratio <= 1.0 { theme.green } else { theme.yellow };
        svg.rect((one.min(end), y + 4.0), ((end - one).abs().max(1.5), ROW - 8.0), color, None);
        let (at, anchor) = if bar.ratio < 1.0 { (end - 5.0, Anchor::End) } else { (end + 5.0, Anchor::Start) };
        svg.text((at, y + 16.0), anchor, theme.text, &bar.number);
    }
    svg.finish()
}
