//! The middle of a number of values.

/// Of an even number of values, the mean of the two in the middle; not a number if there are none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(
            [median([9.0, 1.0, 2.0]), median([9.0, 1.0, 2.0, 3.0])].map(|m| m.to_string()),
            ["2", "2.5"]
        );
        assert!(median([]).is_nan());
    }
}
