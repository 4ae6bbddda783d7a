//! Numbers as people read them.

use minijinja::Environment;
use minijinja::value::Value;

/// What stands where a number is missing or is none.
const NOT_KNOWN: &str = "not known";

/// `n|count`, `x|share`, `x|significant(3)`, `x|fixed(4)`, `x|duration`, `n|short` and `name|words`.
pub(super) fn add_filters(env: &mut Environment<'_>) {
    let number =
        |f: fn(f64) -> String| move |x: Value| f64::try_from(x).map_or_else(|_| NOT_KNOWN.to_owned(), f);
    env.add_filter("count", number(|x| count(x.max(0.0) as usize)));
    env.add_filter("share", number(share));
    env.add_filter("duration", number(duration));
    env.add_filter("short", number(short));
    env.add_filter("significant", |x: Value, digits: usize| {
        f64::try_from(x).map_or_else(|_| NOT_KNOWN.to_owned(), |x| significant(x, digits))
    });
    env.add_filter("fixed", |x: Value, digits: usize| match f64::try_from(x) {
        Ok(x) if x.is_finite() => format!("{x:.digits$}"),
        _ => NOT_KNOWN.to_owned(),
    });
    env.add_filter("words", |name: String| name.replace('_', " "));
}

/// 1009 becomes `1,009`.
pub(super) fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// 0.8352 becomes `83.5%`. What is nearly all or nearly nothing does not become 100% or 0%.
pub(super) fn share(x: f64) -> String {
    if !x.is_finite() {
        return NOT_KNOWN.to_owned();
    }
    let percent = x * 100.0;
    let text = format!("{percent:.1}");
    match text.as_str() {
        "0.0" if percent > 0.0 => "under 0.1%".to_owned(),
        "100.0" if percent < 100.0 => "over 99.9%".to_owned(),
        _ => format!("{}%", text.strip_suffix(".0").unwrap_or(&text)),
    }
}

/// 23.614 becomes `23.6`, 0.000031 becomes `3.1e-5` (with two digits).
pub(super) fn significant(x: f64, digits: usize) -> String {
    if !x.is_finite() {
        return NOT_KNOWN.to_owned();
    }
    if x == 0.0 {
        return "0".to_owned();
    }
    let magnitude = x.abs().log10().floor() as i32;
    if magnitude < -3 {
        return format!("{x:.*e}", digits.saturating_sub(1));
    }
    let decimals = (digits as i32 - 1 - magnitude).max(0) as usize;
    if decimals == 0 && x >= 0.0 { count(x.round() as usize) } else { format!("{x:.decimals$}") }
}

/// 151.2 seconds become `2 min 31 s`.
fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return NOT_KNOWN.to_owned();
    }
    if seconds < 60.0 {
        return if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") };
    }
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, minutes, 0) => format!("{minutes} min"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// 134515008 becomes `135 million`.
fn short(n: f64) -> String {
    if !n.is_finite() {
        return NOT_KNOWN.to_owned();
    }
    match n {
        n if n >= 1e9 => format!("{} billion", significant(n / 1e9, 3)),
        n if n >= 1e6 => format!("{} million", significant(n / 1e6, 3)),
        n => count(n.max(0.0) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let check = |text: String, expect: &str| assert_eq!(text, expect);
        check(count(7), "7");
        check(count(1009), "1,009");
        check(count(134_515_008), "134,515,008");
        check(share(0.8352), "83.5%");
        check(share(0.5), "50%");
        check(share(1.0), "100%");
        check(share(0.99996), "over 99.9%");
        check(share(0.0004), "under 0.1%");
        check(share(0.0), "0%");
        check(share(f64::NAN), NOT_KNOWN);
        check(significant(23.614, 3), "23.6");
        check(significant(9.1, 3), "9.10");
        check(significant(2381.7, 3), "2,382");
        check(significant(0.512345, 4), "0.5123");
        check(significant(3.1e-5, 2), "3.1e-5");
        check(significant(-0.52, 2), "-0.52");
        check(duration(4.23), "4.2 s");
        check(duration(59.99), "60 s");
        check(duration(151.2), "2 min 31 s");
        check(duration(7260.0), "2 h 1 min");
        check(short(4_884_480.0), "4.88 million");
    }
}
