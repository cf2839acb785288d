//! How a master whose database is damaged comes back.
//!
//! What was cut off or changed may have been acknowledged, so its id must never vote again with what
//! is left. The master becomes another one, as if its folder had been empty: it asks to be listed
//! under a new id in the place of the old one, which takes a majority of the others, and takes their
//! image into a database beside the damaged one. Only once that is whole do the two change places;
//! until then nothing has changed, and nothing is ever deleted.

use super::founding::{self, Founder, FoundingError, Way};
use crate::error::StorageError;
use crate::folder::Folder;
use crate::storage::Storage;

/// Makes the folder's database one that other masters' image is in. The damaged one is closed.
pub async fn rejoin(
    folder: &mut Folder,
    way: &Way,
    founder: &Founder<'_>,
) -> Result<(), FoundingError> {
    let others = others(way, founder.url);
    if others.is_empty() {
        return Err(FoundingError::NobodyNamed);
    }
    let storage = Storage::open(&folder.new_database()?)?;
    let node = founding::candidate(&storage)?;
    let mut tried = Vec::new();
    for url in others {
        let introduction = match founder.introduction(url).await {
            Ok(introduction) if introduction.cluster.is_none() => {
                tried.push(format!("{url} has no cluster yet"));
                continue;
            }
            Ok(introduction) => introduction,
            Err(error) => {
                tried.push(format!("{:#}", anyhow::Error::from(error)));
                continue;
            }
        };
        let expected = folder.identity().map(|identity| identity.cluster);
        if let (Some(found), Some(expected)) = (introduction.cluster, expected)
            && found != expected
        {
            return Err(StorageError::ForeignDatabase { found, expected }.into());
        }
        match founder.enter(&storage, node, url, &introduction).await {
            Ok(_) => {
                drop(storage);
                let aside = folder.exchange_databases()?;
                tracing::warn!(
                    damaged = %aside.display(),
                    %node,
                    "this master is a new one now, with what the others have: delete the damaged \
                     database once nobody wants to look into it"
                );
                return Ok(());
            }
            Err(error) => tried.push(format!("{:#}", anyhow::Error::from(error))),
        }
    }
    let tried = tried.join("; ");
    Err(FoundingError::NobodyThere { tried })
}

/// The other masters that this one was told of.
fn others<'a>(way: &'a Way, own: &str) -> Vec<&'a str> {
    let named = match way {
        Way::Alone | Way::Invited => &[],
        Way::Together(peers) => peers.as_slice(),
        Way::Join(url) => std::slice::from_ref(url),
    };
    let others = named.iter().filter(|url| *url != own);
    others.map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_does_not_ask_itself() {
        let peers = ["http://a:1", "http://b:1"].map(str::to_owned).to_vec();
        let together = Way::Together(peers);
        assert_eq!(others(&together, "http://a:1"), ["http://b:1"]);
        let join = Way::Join("http://a:1".into());
        assert_eq!(others(&join, "http://b:1"), ["http://a:1"]);
        assert!(others(&join, "http://a:1").is_empty());
        assert!(others(&Way::Alone, "http://a:1").is_empty());
    }
}
