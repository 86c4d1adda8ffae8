//! A plot of bars, one below the other, as SVG.

use std::fmt::Write;

/// One bar for each row, on a scale that begins at 0. `title` and `note` stand above and below the plot; `unit` follows
/// each number. A value that is not finite or is negative has no bar.
pub(crate) fn bars(title: &str, note: &str, unit: &str, rows: &[(String, f64)]) -> String {
    const WIDTH: f64 = 760.0;
    const LABELS: f64 = 200.0;
    const NUMBERS: f64 = 140.0;
    const ROW: usize = 28;
    const HEAD: usize = 44;
    const FOOT: usize = 34;

    let length = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
    let largest = rows.iter().map(|(_, value)| length(*value)).fold(f64::MIN_POSITIVE, f64::max);
    let height = HEAD + rows.len() * ROW + FOOT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"26\" font-size=\"16\">{}</text>\n",
        escaped(title)
    );
    for (number, (label, value)) in rows.iter().enumerate() {
        let top = HEAD + number * ROW;
        let text = top + 17;
        let bar = length(*value) / largest * (WIDTH - LABELS - NUMBERS);
        let colour = if label.starts_with("mesh") { "#2b6cb0" } else { "#a0aec0" };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABELS}\" y=\"{top}\" width=\"{bar:.1}\" height=\"22\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{} {}</text>",
            LABELS - 10.0,
            escaped(label),
            LABELS + bar + 8.0,
            figure(*value),
            escaped(unit)
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"12\" y=\"{}\" font-size=\"11\" fill=\"#555\">{}</text>\n</svg>",
        height - 12,
        escaped(note)
    );
    svg
}

/// Three digits at least, and no more than are read.
fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_is_the_largest_value_and_text_is_escaped() {
        let rows = [("a<b".into(), 50.0), ("mesh".into(), 100.0), ("none".into(), f64::NAN)];
        let svg = bars("a & b", "note", "1/s", &rows);
        assert!(svg.contains("a &amp; b") && svg.contains("a&lt;b"), "{svg}");
        assert!(svg.contains("width=\"420.0\"") && svg.contains("width=\"210.0\""), "{svg}");
        assert!(svg.contains("width=\"0.0\"") && svg.contains("100 1/s"), "{svg}");
    }
}
