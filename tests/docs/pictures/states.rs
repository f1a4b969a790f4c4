//! The states of a pin and the verbs that lead from one to another; every arrow is taken on a real file.

use daxfile::pin::state::State;
use daxfile_tests::tools::require;
use daxfile_tests::{Kind, Scratch};
use strum::VariantArray;

use super::svg::{Anchor, Svg, Theme};
use crate::man::verbs;
use crate::sessions::script;

/// How a pinned file comes into another state.
struct Cause {
    to: State,
    label: &'static str,
    /// Commands after which the file `$F` is in that state.
    commands: &'static str,
    /// The label and commands of an event, other than a verb, that ends the state.
    end: Option<(&'static str, &'static str)>,
}

const CAUSES: [Cause; 5] = [
    Cause { to: State::NotHeld, label: "the flag is cleared", commands: "chattr -i f", end: None },
    Cause {
        to: State::Drifted,
        label: "its map is changed",
        commands: "chattr -i f; fallocate -p -o 0 -l 4k f; chattr +i f",
        end: None,
    },
    Cause {
        to: State::WriterInside,
        label: "a writer gets in",
        commands: "chattr -i f; exec 9>>f; chattr +i f",
        end: Some(("it closes", "exec 9>&-")),
    },
    Cause {
        to: State::ForeignRecord,
        label: "cp -a makes a copy",
        commands: "cp -a --reflink=never f g; F=g",
        end: None,
    },
    Cause {
        to: State::BadRecord,
        label: "its record is damaged",
        commands: "chattr -i f; setfattr -n security.daxfile.pin -v 0 f",
        end: None,
    },
];

/// Verbs that change a file or a pin, and verbs that act on no file.
const ACTING: [&str; 4] = ["alloc", "pin", "prepare", "unpin"];
const APART: [&str; 2] = ["completions", "man"];

/// The exit status of `daxfile verify` in a state, and the result of each way out.
struct Found {
    verify: String,
    ways: Vec<(String, String)>,
}

/// The state and the exit status of `verify`, and the status of `act` and the state after it.
fn take(scratch: &Scratch, commands: &str, act: &str) -> [String; 4] {
    let run = script(
        &format!(
            "state() {{ daxfile verify --json $F 2>/dev/null | jq -r '.files[0].pin.state'; }}
             cd $(mktemp -d -p .); F=f; daxfile alloc -q -s 1M f; daxfile pin -q f
             {commands}
             state; daxfile verify $F >/dev/null 2>&1; echo $?
             {{ {act}; }} >/dev/null 2>&1; echo $?; state"
        ),
        scratch.mount_point(),
    );
    let run = run.expect(0);
    let lines: Vec<_> = run.text().lines().map(str::to_owned).collect();
    lines.try_into().unwrap_or_else(|_| panic!("{commands}: {act}: {run}"))
}

fn found(scratch: &Scratch, state: State, commands: &str, acts: &[(&str, &str)]) -> Found {
    let mut verify = String::new();
    let mut ways = Vec::new();
    for (label, act) in acts {
        let [before, exits, status, after] = take(scratch, commands, act);
        assert_eq!(before, state.name(), "after {commands}");
        verify = exits;
        let outcome = if status == "0" { format!("→ {}", plain(&after)) } else { format!("exits {status}") };
        assert!(status == "0" || after == before, "{label} fails and leaves {after}");
        ways.push(((*label).to_owned(), outcome));
    }
    Found { verify, ways }
}

fn plain(state: &str) -> String {
    state.replace('_', " ")
}

pub(super) fn diagram() -> impl Fn(&Theme) -> String {
    require(&["chattr", "fallocate", "setfattr", "jq"]);
    let scratch = Scratch::new(Kind::xfs());
    let mut states: Vec<State> = CAUSES.iter().map(|cause| cause.to).chain([State::Pinned, State::Unpinned]).collect();
    states.sort_by_key(|state| State::VARIANTS.iter().position(|variant| variant == state));
    assert_eq!(states, State::VARIANTS, "each state is drawn");
    let (pin, unpin) = (("pin", "daxfile pin $F"), ("unpin", "daxfile unpin $F"));
    let pinned = found(&scratch, State::Pinned, "", &[unpin]);
    let unpinned = found(&scratch, State::Unpinned, "daxfile unpin -q f", &[pin, ("prepare", "daxfile prepare $F")]);
    assert_eq!(pinned.ways, [("unpin".into(), "→ unpinned".into())]);
    assert_eq!(unpinned.ways, [("pin".into(), "→ pinned".into()), ("prepare".into(), "→ unpinned".into())]);
    let others: Vec<Found> = CAUSES
        .iter()
        .map(|cause| {
            let acts: Vec<_> = [pin, unpin].into_iter().chain(cause.end).collect();
            found(&scratch, cause.to, cause.commands, &acts)
        })
        .collect();
    let looking: Vec<String> =
        verbs().into_iter().filter(|verb| ![&ACTING[..], &APART].concat().contains(&verb.as_str())).collect();
    move |theme| draw(&unpinned, &pinned, &others, &looking, theme)
}

const BOX: (f64, f64) = (150.0, 50.0);
const LEFT: f64 = 24.0;
const CENTER: f64 = 268.0;
const RIGHT: f64 = 620.0;
const WIDTH: f64 = 930.0;
const ROW: f64 = 78.0;

fn draw(unpinned: &Found, pinned: &Found, others: &[Found], looking: &[String], theme: &Theme) -> String {
    let top = 20.0;
    let middle = top + ROW * 2.0 + BOX.1 / 2.0;
    let mut svg = Svg::new(theme, WIDTH, top + ROW * 5.0 + 26.0);
    state(&mut svg, (LEFT, middle), State::Unpinned, &unpinned.verify);
    state(&mut svg, (CENTER, middle), State::Pinned, &pinned.verify);

    let (from, to) = (LEFT + BOX.0 + 3.0, CENTER - 3.0);
    let between = f64::midpoint(from, to);
    svg.arrow(&[(from, middle - 11.0), (to, middle - 11.0)], theme.blue);
    svg.bold((between, middle - 18.0), Anchor::Middle, theme.blue, "pin");
    svg.arrow(&[(to, middle + 11.0), (from, middle + 11.0)], theme.blue);
    svg.bold((between, middle + 28.0), Anchor::Middle, theme.blue, "unpin");

    let over = middle - BOX.1 / 2.0;
    svg.arrow(&[(LEFT + 40.0, over - 52.0), (LEFT + 40.0, over - 3.0)], theme.blue);
    svg.bold((LEFT + 40.0, over - 60.0), Anchor::Middle, theme.blue, "alloc");
    let (out, back) = (LEFT + 90.0, LEFT + 130.0);
    svg.arrow(&[(out, over - 3.0), (out, over - 52.0), (back, over - 52.0), (back, over - 3.0)], theme.blue);
    svg.bold((f64::midpoint(out, back), over - 60.0), Anchor::Middle, theme.blue, "prepare");

    let bus = CENTER + BOX.0 + 30.0;
    for ((cause, found), row) in CAUSES.iter().zip(others).zip(0u32..) {
        let y = top + ROW * f64::from(row) + BOX.1 / 2.0;
        svg.arrow(&[(CENTER + BOX.0 + 3.0, middle), (bus, middle), (bus, y), (RIGHT - 3.0, y)], theme.faint);
        svg.text((f64::midpoint(bus, RIGHT), y - 7.0), Anchor::Middle, theme.faint, cause.label);
        state(&mut svg, (RIGHT, y), cause.to, &found.verify);
        let first = y + 5.0 - 9.0 * f64::from(u32::try_from(found.ways.len()).unwrap() - 1);
        for ((verb, outcome), line) in found.ways.iter().zip(0u32..) {
            let at = (RIGHT + BOX.0 + 14.0, first + 18.0 * f64::from(line));
            let acting = ACTING.contains(&verb.as_str());
            svg.text(at, Anchor::Start, if acting { theme.blue } else { theme.faint }, &format!("{verb} {outcome}"));
        }
    }
    let looking = format!("{} change nothing.", looking.join(", "));
    svg.text((LEFT, top + ROW * 5.0 + 4.0), Anchor::Start, theme.faint, &looking);
    svg.finish()
}

/// A box whose left side is at `x` and its middle at `y`.
fn state(svg: &mut Svg, (x, y): (f64, f64), state: State, verify: &str) {
    let theme = svg.theme;
    let color = match state {
        State::Pinned => theme.green,
        State::Unpinned => theme.faint,
        _ => theme.red,
    };
    svg.rect((x, y - BOX.1 / 2.0), BOX, theme.tint(color), Some(color));
    svg.bold((x + BOX.0 / 2.0, y - 4.0), Anchor::Middle, theme.text, &plain(state.name()));
    svg.text((x + BOX.0 / 2.0, y + 15.0), Anchor::Middle, theme.text, &format!("verify exits {verify}"));
}
