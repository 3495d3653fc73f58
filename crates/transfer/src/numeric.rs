//! PostgreSQL's `numeric` in its binary form: digits by fours, the first of which counts ten thousands to a power.

use std::fmt;

use crate::binary::write_digits;

const NEGATIVE: u16 = 0x4000;

/// A number, or what is none.
enum Numeric<'b> {
    Number {
        is_negative: bool,
        /// The power of ten thousand that the first four digits count.
        weight: i32,
        /// Digits behind the point that are shown.
        shown: usize,
        digits: &'b [[u8; 2]],
    },
    Named(&'static str),
}

fn read(bytes: &[u8]) -> Option<Numeric<'_>> {
    let (parts, []) = bytes.as_chunks::<2>() else { return None };
    let ([count, weight, sign, shown], digits) = parts.split_first_chunk()?;
    if digits.len() != usize::from(u16::from_be_bytes(*count)) {
        return None;
    }
    let is_negative = match u16::from_be_bytes(*sign) {
        0 => false,
        NEGATIVE => true,
        0xC000 => return Some(Numeric::Named("NaN")),
        0xD000 => return Some(Numeric::Named("Infinity")),
        0xF000 => return Some(Numeric::Named("-Infinity")),
        _ => return None,
    };
    let (weight, shown) = (i16::from_be_bytes(*weight).into(), u16::from_be_bytes(*shown).into());
    Some(Numeric::Number { is_negative, weight, shown, digits })
}

/// The number without its point: 12.50 of scale 2 is 1250. Nothing where it has more places, or is none.
pub(crate) fn scaled(bytes: &[u8], scale: usize) -> Option<i128> {
    let Numeric::Number { is_negative, weight, digits, .. } = read(bytes)? else { return None };
    let (mut number, mut places) = (0_i128, i32::try_from(scale).ok()? + 4 * (weight + 1));
    for four in digits {
        let four = i128::from(u16::from_be_bytes(*four));
        places -= 4;
        // Of the last four some may be behind what the scale says, and are zeros.
        let kept = u32::try_from((places + 4).clamp(0, 4)).ok()?;
        let left_out = 10_i128.pow(4 - kept);
        if four % left_out != 0 {
            return None;
        }
        number = number.checked_mul(10_i128.pow(kept))?.checked_add(four / left_out)?;
    }
    let missing = 10_i128.checked_pow(u32::try_from(places.max(0)).ok()?);
    let number = if number == 0 { 0 } else { number.checked_mul(missing?)? };
    Some(if is_negative { -number } else { number })
}

/// The number as PostgreSQL writes it.
pub(crate) fn write(bytes: &[u8], to: &mut impl fmt::Write) -> Option<()> {
    let (is_negative, weight, shown, digits) = match read(bytes)? {
        Numeric::Number { is_negative, weight, shown, digits } => (is_negative, weight, shown, digits),
        Numeric::Named(name) => return to.write_str(name).ok(),
    };
    let four = |power: i32| {
        let at = usize::try_from(weight - power).ok();
        at.and_then(|at| digits.get(at)).map_or(0, |four| u64::from(u16::from_be_bytes(*four)))
    };
    if is_negative {
        to.write_char('-').ok()?;
    }
    // The first have no zeros before them.
    write!(to, "{}", four(weight.max(0))).ok()?;
    for power in (0..weight.max(0)).rev() {
        write_digits(four(power), 1_000, to)?;
    }
    if shown > 0 {
        to.write_char('.').ok()?;
    }
    let (mut left, mut power) = (shown, -1);
    while left > 0 {
        let now = left.min(4);
        let hidden = 10_u64.pow(u32::try_from(4 - now).ok()?);
        write_digits(four(power) / hidden, 1_000 / hidden, to)?;
        (left, power) = (left - now, power - 1);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(weight: i16, sign: u16, shown: u16, digits: &[u16]) -> Vec<u8> {
        let count = u16::try_from(digits.len()).unwrap();
        let head = [count, weight.cast_unsigned(), sign, shown];
        head.iter().chain(digits).flat_map(|part| part.to_be_bytes()).collect()
    }

    #[test]
    fn numbers_are_what_their_texts_are() {
        let text = |bytes: &[u8]| {
            let mut text = String::new();
            write(bytes, &mut text).map(|()| text)
        };
        for (of, said, scale, is) in [
            (numeric(0, 0, 2, &[12, 5_000]), "12.50", 2, Some(1_250)),
            (numeric(-1, NEGATIVE, 2, &[100]), "-0.01", 2, Some(-1)),
            (numeric(0, 0, 0, &[]), "0", 2, Some(0)),
            (numeric(0, 0, 3, &[]), "0.000", 38, Some(0)),
            (numeric(2, 0, 0, &[1]), "100000000", 0, Some(100_000_000)),
            (numeric(2, 0, 0, &[1, 0, 203]), "100000203", 1, Some(1_000_002_030)),
            (numeric(-3, 0, 12, &[7]), "0.000000000007", 12, Some(7)),
            (numeric(0, 0, 3, &[1, 2_340]), "1.234", 2, None),
            (numeric(0, 0xC000, 0, &[]), "NaN", 2, None),
            (numeric(0, 0xF000, 0, &[]), "-Infinity", 2, None),
        ] {
            assert_eq!((text(&of).as_deref(), scaled(&of, scale)), (Some(said), is));
        }
        // The most that 38 digits hold.
        let most = numeric(9, 0, 0, &[99, 9_999, 9_999, 9_999, 9_999, 9_999, 9_999, 9_999, 9_999, 9_999]);
        assert_eq!(scaled(&most, 0), Some(10_i128.pow(38) - 1));
        assert_eq!((text(&[0; 7]), scaled(&numeric(0, 0, 0, &[1])[..9], 0)), (None, None));
    }
}
