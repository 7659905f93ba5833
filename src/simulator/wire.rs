//! The provider's bytes: JSON text with everything beyond ASCII escaped, message ids, signatures.

use std::fmt::Write as _;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Appends `text` as a JSON string the way the provider writes it: non-ASCII as `\uXXXX`, in surrogate pairs.
pub(super) fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    write!(out, "\\u{unit:04x}").ok();
                }
            }
        }
    }
    out.push('"');
}

/// The value of `X-Hub-Signature-256`: over the raw bytes, keyed by the account's app secret.
pub(super) fn signature(app_secret: &[u8], body: &[u8]) -> String {
    // A key of any length is a good HMAC key, so there is always a signature.
    Hmac::<Sha256>::new_from_slice(app_secret).map_or_else(
        |_| String::new(),
        |mut mac| {
            mac.update(body);
            format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
        },
    )
}

/// A message id in the provider's form: `wamid.` and base64 around the recipient and 18 hexadecimal digits, of which
/// `run` (one per simulator) and `serial` (one per message) make it unique.
pub(super) fn message_id(recipient: &str, run: u32, serial: u64) -> String {
    let tail = format!("{run:08X}{serial:010X}");
    let mut bytes = Vec::with_capacity(48);
    bytes.extend([0x1c, 0x18, u8::try_from(recipient.len()).unwrap_or(u8::MAX)]);
    bytes.extend(recipient.bytes());
    bytes.extend([0x15, 0x02, 0x00, 0x11, 0x18, 0x12]);
    bytes.extend(tail.bytes());
    bytes.push(0);
    let mut id = String::with_capacity(72);
    id.push_str("wamid.");
    push_base64(&mut id, &bytes);
    id
}

fn push_base64(out: &mut String, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().chain(&[0; 2]).take(3).fold(0_usize, |word, &byte| word << 8 | usize::from(byte));
        for place in 0..4 {
            let digit = ALPHABET.get(word >> (18 - 6 * place) & 63).copied().unwrap_or(b'=');
            out.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
}

/// 64 well-mixed bits of `value`: the same draw for the same seed, in whatever order calls arrive.
pub(super) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// 64 bits that stand for `text` (FNV-1a, mixed).
pub(super) fn digest(text: &str) -> u64 {
    mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// Whether a draw falls under `probability`.
#[expect(clippy::cast_precision_loss, reason = "53 of the 64 bits are kept, which is what an f64 holds")]
pub(super) fn falls_under(probability: f64, draw: u64) -> bool {
    ((draw >> 11) as f64) < probability * (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_ascii_and_reads_back() {
        let text = "佐藤 \"a\\b\"\n😀";
        let mut out = String::new();
        push_text(&mut out, text);
        assert!(out.is_ascii());
        assert!(out.starts_with("\"\\u4f50\\u85e4 \\\"a\\\\b\\\"\\u000a\\ud83d\\ude00"));
        assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }

    #[test]
    fn the_signature_is_hmac_sha256_in_lower_case_hex() {
        // RFC 4231, test case 2.
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature(b"Jefe", b"what do ya want for nothing?"), expected);
    }

    #[test]
    fn ids_differ_and_look_like_the_providers() {
        let mut out = String::new();
        push_base64(&mut out, b"any carnal pleas");
        assert_eq!(out, "YW55IGNhcm5hbCBwbGVhcw==");
        let (one, two) = (message_id("16505550001", 7, 1), message_id("16505550001", 7, 2));
        assert!(one.starts_with("wamid.HBgLMTY1MDU1NTAwMDEVAgARGBI") && one != two, "{one}");
    }

    #[test]
    fn a_share_of_draws_falls_under_a_probability() {
        let hits = (0..10_000).filter(|&call| falls_under(0.1, mix(call))).count();
        assert!((900..1100).contains(&hits), "{hits}");
        assert!((0..100).all(|call| falls_under(1.0, mix(call)) && !falls_under(0.0, mix(call))));
    }
}
