//! What was probably meant by a name that is not known.

/// From here on two names are alike (Jaro-Winkler, from 0 to 1).
const ALIKE: f64 = 0.75;
/// More than these help nobody.
const SHOWN: usize = 3;

/// The names most like `given`, the nearest first, at most three.
///
/// ```
/// use campaign_dispatch::domain::nearest::nearest;
/// assert_eq!(nearest("shop-jp", ["warehouse", "shop-us", "shop-jp1"]), ["shop-jp1", "shop-us"]);
/// ```
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    nearest_by(names.into_iter().map(|name| (strsim::jaro_winkler(given, name), name)))
}

/// As [`nearest`], for names that are also known without their `prefix`.
pub fn nearest_under<'a>(given: &str, names: impl IntoIterator<Item = &'a str>, prefix: &str) -> Vec<String> {
    nearest_by(names.into_iter().map(|name| {
        let short = name.strip_prefix(prefix).unwrap_or(name);
        (strsim::jaro_winkler(given, name).max(strsim::jaro_winkler(given, short)), name)
    }))
}

fn nearest_by<'a>(names: impl Iterator<Item = (f64, &'a str)>) -> Vec<String> {
    let mut near: Vec<(f64, &str)> = names.filter(|(alike, _)| *alike >= ALIKE).collect();
    near.sort_by(|(a, x), (b, y)| b.total_cmp(a).then(x.cmp(y)));
    near.dedup_by(|(_, a), (_, b)| a == b);
    near.into_iter().take(SHOWN).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_alike_is_named_once_each() {
        assert_eq!(nearest("spring_ofer", ["spring_offer", "parcel", "spring_offer"]), ["spring_offer"]);
        assert_eq!(nearest_under("nmae", ["body.name", "header.media"], "body."), ["body.name"]);
        assert!(nearest("x", ["warehouse"]).is_empty());
    }
}
