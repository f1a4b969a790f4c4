//! Colours, and the few shapes that the diagrams are made from.

use std::fmt::Write as _;

type Rgb = (u8, u8, u8);

/// The colours of a page in light or dark.
pub(super) struct Theme {
    /// The end of the file's name.
    pub(super) name: &'static str,
    pub(super) background: Rgb,
    pub(super) text: Rgb,
    pub(super) faint: Rgb,
    pub(super) red: Rgb,
    pub(super) green: Rgb,
    pub(super) yellow: Rgb,
    pub(super) blue: Rgb,
    pub(super) magenta: Rgb,
    pub(super) cyan: Rgb,
}

pub(super) const LIGHT: Theme = Theme {
    name: "light",
    background: (250, 251, 252),
    text: (31, 35, 40),
    faint: (89, 99, 110),
    red: (199, 32, 43),
    green: (23, 111, 48),
    yellow: (140, 92, 0),
    blue: (9, 93, 200),
    magenta: (130, 60, 200),
    cyan: (20, 110, 118),
};

pub(super) const DARK: Theme = Theme {
    name: "dark",
    background: (22, 27, 34),
    text: (230, 237, 243),
    faint: (158, 167, 177),
    red: (255, 130, 120),
    green: (76, 196, 96),
    yellow: (224, 168, 60),
    blue: (110, 176, 255),
    magenta: (206, 154, 255),
    cyan: (86, 212, 221),
};

impl Theme {
    /// `color` over the background: pale enough for text to be read on it.
    pub(super) fn tint(&self, color: Rgb) -> Rgb {
        let mix = |over: u8, under: u8| {
            let mixed = (u16::from(over) * 28 + u16::from(under) * 72) / 100;
            u8::try_from(mixed).expect("between the two")
        };
        let under = self.background;
        (mix(color.0, under.0), mix(color.1, under.1), mix(color.2, under.2))
    }
}

/// The direction of a text from its position.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing on a plain background.
pub(super) struct Svg<'a> {
    pub(super) theme: &'a Theme,
    width: f64,
    height: f64,
    body: String,
}

impl<'a> Svg<'a> {
    pub(super) fn new(theme: &'a Theme, width: f64, height: f64) -> Svg<'a> {
        Svg { theme, width, height, body: String::new() }
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, color: Rgb, text: &str) {
        self.styled(x, y, anchor, color, "", text);
    }

    pub(super) fn bold(&mut self, (x, y): (f64, f64), anchor: Anchor, color: Rgb, text: &str) {
        self.styled(x, y, anchor, color, " font-weight=\"600\"", text);
    }

    fn styled(&mut self, x: f64, y: f64, anchor: Anchor, color: Rgb, style: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (color, text) = (hex(color), escape(text));
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\" fill=\"{color}\"{style}>{text}</text>"
        );
    }

    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: Rgb, stroke: Option<Rgb>) {
        let fill = hex(fill);
        let stroke = stroke.map_or(String::new(), |stroke| format!(" stroke=\"{}\" stroke-width=\"1.5\"", hex(stroke)));
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"3\" fill=\"{fill}\"{stroke}/>"
        );
    }

    /// A line through these points, with a head at its end.
    pub(super) fn arrow(&mut self, points: &[(f64, f64)], color: Rgb) {
        self.line(points, color);
        let [.., from, to] = points else { return };
        let (x, y) = (to.0 - from.0, to.1 - from.1);
        let length = x.hypot(y);
        let (x, y) = (x / length * 7.0, y / length * 7.0);
        let corner = |side: f64| format!("{:.1},{:.1}", to.0 - x - y * side, to.1 - y + x * side);
        let _ = writeln!(
            self.body,
            "<polygon points=\"{:.1},{:.1} {} {}\" fill=\"{}\"/>",
            to.0,
            to.1,
            corner(0.6),
            corner(-0.6),
            hex(color)
        );
    }

    pub(super) fn line(&mut self, points: &[(f64, f64)], color: Rgb) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let (points, color) = (points.join(" "), hex(color));
        let _ = writeln!(
            self.body,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.3\"/>"
        );
    }

    pub(super) fn finish(self) -> String {
        let (width, height, body) = (self.width, self.height, self.body);
        let background = hex(self.theme.background);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"system-ui, Segoe UI, Helvetica, Arial, sans-serif\" \
             font-size=\"13\">\n<rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"5\" fill=\"{background}\"/>\n\
             {body}</svg>\n"
        )
    }
}

fn hex((red, green, blue): Rgb) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
