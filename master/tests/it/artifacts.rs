//! Artifacts on disk: only whole ones of the right digest, whatever happens to uploads.

use std::fs;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use futures::stream;
use tempfile::TempDir;
use tepui_master::artifacts::{ArtifactError, Artifacts};
use tepui_types::Digest;
use tokio::io::AsyncReadExt as _;

const MAX: u64 = 1024 * 1024;

fn artifacts() -> (TempDir, PathBuf, Artifacts) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("artifacts");
    let artifacts = Artifacts::new(&path, MAX).unwrap();
    (folder, path, artifacts)
}

async fn put(artifacts: &Artifacts, digest: Digest, bytes: &[u8]) -> Result<u64, ArtifactError> {
    let chunks: Vec<_> = bytes
        .chunks(1000)
        .map(|chunk| Ok::<_, io::Error>(Bytes::copy_from_slice(chunk)))
        .collect();
    artifacts.put(digest, stream::iter(chunks)).await
}

/// Files under the folder, those of unfinished uploads included.
fn files(path: &PathBuf) -> usize {
    let count = |path: &PathBuf| {
        fs::read_dir(path)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_file())
            .count()
    };
    count(path) + count(&path.join("unfinished"))
}

#[tokio::test]
async fn what_is_put_can_be_read() {
    let (_folder, path, artifacts) = artifacts();
    let bytes = vec![7; 100_000];
    let digest = Digest::of(&bytes);
    assert!(!artifacts.contains(digest));
    assert!(artifacts.open(digest).await.unwrap().is_none());
    assert_eq!(put(&artifacts, digest, &bytes).await.unwrap(), 100_000);
    // Again, and after a restart.
    assert_eq!(put(&artifacts, digest, &bytes).await.unwrap(), 100_000);
    let artifacts = Artifacts::new(&path, MAX).unwrap();
    assert!(artifacts.contains(digest));
    let (mut file, size) = artifacts.open(digest).await.unwrap().unwrap();
    let mut read = Vec::new();
    file.read_to_end(&mut read).await.unwrap();
    assert_eq!((read, size), (bytes, 100_000));
    assert_eq!(files(&path), 1);
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_leaves_nothing() {
    let (_folder, path, artifacts) = artifacts();
    let digest = Digest::of(b"right");
    let refused = put(&artifacts, digest, b"wrong").await.unwrap_err();
    assert!(
        refused.to_string().contains(&digest.to_string()),
        "{refused}"
    );
    assert!(matches!(refused, ArtifactError::WrongDigest { .. }));
    assert_eq!(files(&path), 0);
    put(&artifacts, digest, b"right").await.unwrap();
    let refused = put(&artifacts, digest, b"wrong").await;
    assert!(
        matches!(refused, Err(ArtifactError::WrongDigest { .. })),
        "checked though it is there"
    );
    assert!(artifacts.contains(digest));
}

#[tokio::test]
async fn a_cut_upload_is_refused_and_leaves_nothing() {
    let (_folder, path, artifacts) = artifacts();
    let cut = [
        Ok(Bytes::from_static(b"half")),
        Err(io::Error::other("connection reset")),
    ];
    let refused = artifacts
        .put(Digest::of(b"half and half"), stream::iter(cut))
        .await;
    assert!(matches!(
        refused,
        Err(ArtifactError::Cut { received: 4, .. })
    ));
    assert_eq!(files(&path), 0);
    // Its caller is gone altogether.
    let endless = stream::pending::<io::Result<Bytes>>();
    let upload = artifacts.put(Digest::of(b"never"), endless);
    assert!(futures::FutureExt::now_or_never(upload).is_none());
    assert_eq!(files(&path), 0);
}

#[tokio::test]
async fn what_a_crash_left_is_cleared() {
    let (_folder, path, _artifacts) = artifacts();
    fs::write(path.join("unfinished/left.0"), "half").unwrap();
    Artifacts::new(&path, MAX).unwrap();
    assert_eq!(files(&path), 0);
}

#[tokio::test]
async fn too_large_is_refused_as_soon_as_it_is() {
    let (_folder, path, artifacts) = artifacts();
    let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![0; 65_536])));
    let refused = artifacts.put(Digest::of(b""), endless).await;
    assert!(matches!(
        refused,
        Err(ArtifactError::TooLarge { limit: MAX })
    ));
    assert_eq!(files(&path), 0);
}

#[tokio::test]
async fn equal_uploads_may_meet() {
    let (_folder, path, artifacts) = artifacts();
    let bytes = vec![3; 200_000];
    let digest = Digest::of(&bytes);
    let uploads = (0..16).map(|_| put(&artifacts, digest, &bytes));
    for size in futures::future::join_all(uploads).await {
        assert_eq!(size.unwrap(), 200_000);
    }
    assert_eq!(files(&path), 1);
    assert_eq!(fs::read(path.join(digest.hex())).unwrap(), bytes);
}

#[tokio::test]
async fn uploads_at_once_are_bounded() {
    let (_folder, _path, artifacts) = artifacts();
    let digest = Digest::of(b"x");
    let pending: Vec<_> = (0..64)
        .map(|_| {
            let artifacts = artifacts.clone();
            let mut upload = Box::pin(async move {
                artifacts
                    .put(digest, stream::pending::<io::Result<Bytes>>())
                    .await
            });
            assert!(futures::FutureExt::now_or_never(&mut upload).is_none());
            upload
        })
        .collect();
    assert!(matches!(
        put(&artifacts, digest, b"x").await,
        Err(ArtifactError::Busy)
    ));
    drop(pending);
    put(&artifacts, digest, b"x").await.unwrap();
}
