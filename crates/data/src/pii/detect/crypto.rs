use sha2::{Digest, Sha256};

use crate::pii::scan::Scan;
use crate::pii::{Kind, Span};

/// Addresses whose checksum proves them, Base58Check (Bitcoin, Litecoin, Dogecoin, Tron, …) and bech32
/// (BIP 173 and 350), and two that only their shape tells: Ethereum (`0x` and 40 hexadecimal digits) and
/// Monero (95 Base58 characters).
pub(super) fn find(scan: &Scan, out: &mut Vec<Span>) {
    for &i in &scan.numeric {
        let token = scan.tokens[i];
        if token.len() < 26 || token.len() > 95 {
            continue;
        }
        let word = scan.str(i);
        if !word.is_ascii() {
            continue;
        }
        let score = match word.len() {
            42 if word.starts_with("0x") && word[2..].bytes().all(|b| b.is_ascii_hexdigit()) => 0.85,
            26..=35 if base58check(word) => 0.95,
            95 if word.starts_with(['4', '8']) && word.bytes().all(|b| BASE58.contains(&b)) => 0.75,
            14..=90 if bech32(word) => 0.95,
            _ => continue,
        };
        out.push(Span::new(token.start, token.end, Kind::Crypto, score));
    }
}

const BASE58: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// 25 bytes in base 58, the last four of which are the double SHA-256 of the rest.
fn base58check(word: &str) -> bool {
    let mut bytes = [0u8; 25];
    for c in word.bytes() {
        let Some(digit) = BASE58.iter().position(|&b| b == c) else { return false };
        let mut carry = digit as u32;
        for byte in bytes.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            *byte = carry as u8;
            carry >>= 8;
        }
        if carry != 0 {
            return false;
        }
    }
    let (body, check) = bytes.split_at(21);
    // Zero bytes in front are written as leading ones: a word of digits alone must not pass by chance.
    Sha256::digest(Sha256::digest(body))[..4] == *check
}

/// A human-readable part, `1`, and data that ends in the six characters of the BCH code.
fn bech32(word: &str) -> bool {
    const DATA: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let is_one_case =
        word.bytes().all(|b| !b.is_ascii_uppercase()) || word.bytes().all(|b| !b.is_ascii_lowercase());
    let word = word.to_ascii_lowercase();
    let Some((prefix, data)) = word.rsplit_once('1') else { return false };
    if !is_one_case || !["bc", "tb", "ltc", "addr", "cosmos", "osmo"].contains(&prefix) || data.len() < 14 {
        return false;
    }
    let mut check = 1u32;
    let mut feed = |value: u8| {
        let top = check >> 25;
        check = (check & 0x01ff_ffff) << 5 ^ u32::from(value);
        for (i, generator) in [0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3].iter().enumerate()
        {
            if top >> i & 1 == 1 {
                check ^= generator;
            }
        }
    };
    prefix.bytes().for_each(|b| feed(b >> 5));
    feed(0);
    prefix.bytes().for_each(|b| feed(b & 31));
    for b in data.bytes() {
        let Some(value) = DATA.iter().position(|&d| d == b) else { return false };
        feed(value as u8);
    }
    check == 1 || check == 0x2bc8_30a3
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use crate::pii::Kind::Crypto;

    #[test]
    fn addresses() {
        for address in [
            "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
            "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy",
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "0x742d35Cc6634C0532925a3b844Bc454e4438f44e",
        ] {
            check(&format!("pay {address}, thanks"), Crypto, &[address]);
            let mut wrong = address.to_owned();
            wrong.pop();
            check(&format!("pay {wrong}"), Crypto, &[]);
        }
        check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb", Crypto, &[]);
    }
}
