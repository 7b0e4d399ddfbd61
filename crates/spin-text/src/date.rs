//! `strftime_now` on a day that the caller fixes.

use std::fmt::Write;

use chrono::{NaiveDate, NaiveTime};

/// Directives that chrono writes as Python does in the C locale.
const SAME: &str = "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY%";
/// Those of them that are numbers, which glibc lets a flag pad otherwise.
const NUMBERS: &str = "CdegGHIjklmMSuUVwWyY";

/// What Python's `datetime.strftime` makes of midnight of `day`, without a time zone.
///
/// Where Python leaves directives that it does not know to the platform, this fails.
pub(crate) fn strftime(day: NaiveDate, format: &str) -> Result<String, String> {
    let midnight = day.and_time(NaiveTime::MIN);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut item = String::from('%');
        let mut directive = rest.next();
        let flag = directive.filter(|flag| "-_0".contains(*flag));
        if flag.is_some() {
            item.extend(flag);
            directive = rest.next();
        }
        item.extend(directive);
        let known = if flag.is_some() { NUMBERS } else { SAME };
        match directive {
            Some('f') if flag.is_none() => out.push_str("000000"),
            Some('z' | 'Z') if flag.is_none() => (),
            Some(c) if known.contains(c) => {
                write!(out, "{}", midnight.format(&item)).map_err(|_| unknown(&item, format))?;
            }
            _ => return Err(unknown(&item, format)),
        }
    }
    Ok(out)
}

fn unknown(item: &str, format: &str) -> String {
    format!("strftime_now: {item:?} in {format:?} is no directive that is known here; take those of Python's strftime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_a_day_as_python_does() {
        let day = NaiveDate::from_ymd_opt(2024, 7, 6).unwrap();
        let text = strftime(day, "%A, %d %b %Y, %-d.%-m.%y, %H:%M:%S.%f%z, 100%%").unwrap();
        assert_eq!(text, "Saturday, 06 Jul 2024, 6.7.24, 00:00:00.000000, 100%");
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let day = NaiveDate::from_ymd_opt(2024, 7, 6).unwrap();
        for bad in ["%", "%Q", "a %", "%-", "%-A", "%_f", "%:z", "%+", "%3f", "%.3f", "%s", "%é", "%-%", "%E", "%v"] {
            let error = strftime(day, bad).unwrap_err();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }
}
