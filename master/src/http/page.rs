//! Paging by key: tokens that say where a list goes on.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tepui_types::api::list::{DEFAULT_LIMIT, MAX_LIMIT};
use tepui_types::envelope;

use crate::http::error::ApiError;

/// Version of the tokens' encoding.
const VERSION: u8 = 1;

/// `?limit=&page=`.
#[derive(Debug, Default, Deserialize)]
pub struct Paging {
    limit: Option<usize>,
    page: Option<String>,
}

impl Paging {
    /// From their parts.
    pub fn new(limit: Option<usize>, page: Option<String>) -> Self {
        Self { limit, page }
    }

    /// How many items to show.
    pub fn limit(&self) -> Result<usize, ApiError> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            limit => Err(ApiError::BadRequest(format!(
                "limit is {limit}; it is 1 to {MAX_LIMIT}"
            ))),
        }
    }

    /// The key after which to go on.
    pub fn after<K: DeserializeOwned>(&self) -> Result<Option<K>, ApiError> {
        let Some(token) = &self.page else {
            return Ok(None);
        };
        let bytes = from_hex(token);
        let key = bytes.and_then(|bytes| envelope::decode(VERSION, &bytes).ok());
        key.map(Some).ok_or_else(|| {
            ApiError::BadRequest("page is not the `next` of an earlier answer".into())
        })
    }
}

/// The token that leads past `key`.
pub fn token<K: Serialize>(key: &K) -> String {
    envelope::encode(VERSION, key)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Takes at most `limit` items; the token tells where the next page begins.
pub fn cut<T, K: Serialize>(
    mut items: Vec<T>,
    limit: usize,
    key: impl Fn(&T) -> K,
) -> (Vec<T>, Option<String>) {
    if items.len() <= limit {
        return (items, None);
    }
    items.truncate(limit);
    let next = items.last().map(|last| token(&key(last)));
    (items, next)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    // Our own tokens are far shorter.
    if text.len() > 1024 || !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    Some(
        digits?
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lead_back_to_their_key_and_bad_ones_are_refused() {
        let paging = |page: &str| Paging::new(None, Some(page.into()));
        let token = token(&(7u64, "x"));
        let key: Option<(u64, String)> = paging(&token).after().unwrap();
        assert_eq!(key, Some((7, "x".into())));
        for bad in ["", "zz", "0", "é", &format!("{token}00")] {
            assert!(paging(bad).after::<(u64, String)>().is_err(), "{bad}");
        }
        assert!(Paging::new(Some(0), None).limit().is_err());
        assert!(Paging::new(Some(5000), None).limit().is_err());
    }

    #[test]
    fn the_last_page_has_no_next() {
        assert_eq!(cut(vec![1, 2], 2, |item| *item), (vec![1, 2], None));
        let (items, next) = cut(vec![1, 2, 3], 2, |item| *item);
        assert_eq!((items, next.is_some()), (vec![1, 2], true));
    }
}
