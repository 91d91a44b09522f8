//! Numbers that stand for a fault: −200 of an analyser, −127 and 85 °C of a DS18B20, 65,535 of a register that was never written.

/// Whether a value is an error code: of the property's `own`, as the canonical `value`; or, where that is not plausible anyway, of
/// the `own` or `general` ones as the number `sent`. So 85 °F stays a warm day, and 999 hPa ordinary weather.
pub(super) fn is_error_code(value: f64, sent: f64, is_plausible: bool, own: &[f64], general: &[f64]) -> bool {
    let holds = |codes: &[f64], number: f64| codes.iter().any(|code| code.to_bits() == number.to_bits());
    holds(own, value) || (!is_plausible && (holds(own, sent) || holds(general, sent) || holds(general, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_from_values() {
        for (value, sent, is_plausible, expected) in [
            (-200.0, -200.0, false, true),
            (-128.89, -200.0, false, true),
            (85.0, 85.0, false, true),
            (29.44, 85.0, true, false),
            (65_535.0, 65_535.0, false, true),
            // Of the property itself, though plausible.
            (50.0, 50.0, true, true),
            // Of any property, but plausible for this one.
            (999.0, 999.0, true, false),
            (-200.1, -200.1, false, false),
        ] {
            let found = is_error_code(value, sent, is_plausible, &[85.0, -127.0, 50.0], &[-200.0, 999.0, 65_535.0]);
            assert_eq!(found, expected, "{value} from {sent}");
        }
    }
}
