//! Check digits. Each function takes ASCII digits (or letters where said) and nothing else.

/// Luhn (ISO/IEC 7812-1 annex B): the last digit is the check digit.
pub(crate) fn luhn(digits: &[u8]) -> bool {
    match digits.split_last() {
        Some((&last, body)) => luhn_digit(body) == last,
        None => false,
    }
}

/// The digit that makes `body` pass Luhn.
pub(crate) fn luhn_digit(body: &[u8]) -> u8 {
    let sum: u32 = body
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| {
            let d = u32::from(d - b'0');
            if i % 2 == 0 { d * 2 / 10 + d * 2 % 10 } else { d }
        })
        .sum();
    b'0' + ((10 - sum % 10) % 10) as u8
}

/// Verhoeff (Aadhaar): the dihedral group of the pentagon.
pub(crate) fn verhoeff(digits: &[u8]) -> bool {
    const D: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const P: [[u8; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    digits
        .iter()
        .rev()
        .enumerate()
        .fold(0, |c, (i, d)| D[usize::from(c)][usize::from(P[i % 8][usize::from(d - b'0')])])
        == 0
}

/// The weighted sum of the digits.
pub(crate) fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(d, w)| u32::from(d - b'0') * w).sum()
}

/// ISO 7064 mod 11,10 (the German tax number): the last digit is the check digit.
pub(crate) fn mod_11_10(digits: &[u8]) -> bool {
    let Some((&last, body)) = digits.split_last() else { return false };
    let product = body.iter().fold(10, |product, d| {
        let sum = (product + u32::from(d - b'0')) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    (11 - product) % 10 == u32::from(last - b'0')
}

/// The number modulo `modulus`, however long; letters count 10 to 35, as ISO 7064 mod 97 wants.
pub(crate) fn modulo(characters: impl Iterator<Item = u8>, modulus: u64) -> u64 {
    characters.fold(0, |rest, c| match c {
        b'0'..=b'9' => (rest * 10 + u64::from(c - b'0')) % modulus,
        c => (rest * 100 + u64::from(c.to_ascii_uppercase().saturating_sub(b'A')) + 10) % modulus,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_examples_pass_and_their_neighbours_fail() {
        assert!(luhn(b"4111111111111111") && !luhn(b"4111111111111112") && !luhn(b""));
        assert!(verhoeff(b"2363") && !verhoeff(b"2364"));
        assert!(mod_11_10(b"86095742719") && !mod_11_10(b"86095742718"));
        assert_eq!(modulo(b"3214282912345698765432161182".iter().copied(), 97), 1);
    }
}
