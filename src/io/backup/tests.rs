//! Streams that were changed, cut or opened with something else.

use std::io::{self, Read, Write};

use model::limits::BACKUP_RECORD_BYTES;

use super::open::HEAD_BYTES;
use super::*;

fn secret() -> Secret {
    Secret::of_cluster(b"a key of an authority")
}

fn plain(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at * 31 % 251).unwrap_or(0)).collect()
}

fn sealed(plain: &[u8], secret: &Secret) -> Vec<u8> {
    let mut sealer = Sealer::new(Vec::new(), secret).expect("sealed");
    // In pieces that fit no record.
    plain.chunks(7919).for_each(|piece| sealer.write_all(piece).expect("written"));
    sealer.finish().expect("ended")
}

fn opened(bytes: &[u8], secret: &Secret) -> Result<Vec<u8>, BackupError> {
    let mut plain = Vec::new();
    let reading = Opener::new(bytes, |_| Ok(secret.clone()));
    let read = reading.and_then(|mut opener| opener.read_to_end(&mut plain));
    read.map(|_| plain).map_err(why)
}

fn why(error: io::Error) -> BackupError {
    let inner = error.into_inner().and_then(|inner| inner.downcast::<BackupError>().ok());
    *inner.expect("an error of backups")
}

const SIZES: [usize; 8] = [
    0,
    1,
    BACKUP_RECORD_BYTES - 1,
    BACKUP_RECORD_BYTES,
    BACKUP_RECORD_BYTES + 1,
    2 * BACKUP_RECORD_BYTES,
    2 * BACKUP_RECORD_BYTES + 5,
    5 * BACKUP_RECORD_BYTES + 999,
];

#[test]
fn what_was_sealed_is_opened_at_every_size() {
    for size in SIZES {
        let (plain, secret) = (plain(size), secret());
        let bytes = sealed(&plain, &secret);
        let records = size.div_ceil(BACKUP_RECORD_BYTES).max(1);
        assert_eq!(bytes.len(), HEAD_BYTES + size + 16 * records, "{size}");
        assert_eq!(opened(&bytes, &secret), Ok(plain), "{size}");
    }
}

#[test]
fn a_passphrase_opens_what_it_sealed_and_nothing_else_does() {
    let right = Secret::typed("correct horse battery\n").expect("a passphrase");
    right.check().expect("long enough");
    let plain = plain(100);
    let bytes = sealed(&plain, &right);
    assert_eq!(opened(&bytes, &right), Ok(plain));
    let wrong = Secret::typed("correct horse batterz").expect("a passphrase");
    assert_eq!(opened(&bytes, &wrong), Err(BackupError::Passphrase));
    let kind = BackupError::Kind { wanted: "passphrase", given: "recovery key" };
    assert_eq!(opened(&bytes, &secret()), Err(kind));
    assert_eq!(Secret::typed("short").expect("typed").check(), Err(SecretError::Short));
    assert_eq!(Secret::typed(&"x".repeat(2000)), Err(SecretError::Long));
}

#[test]
fn the_recovery_key_of_a_cluster_is_always_the_same_and_its_own() {
    let (own, other) = (secret(), Secret::of_cluster(b"another authority"));
    let Secret::Recovery(key) = &own else { unreachable!("of a cluster") };
    let text = key.to_string();
    assert_eq!(text, "kqr-t4py-sitg-jtgj-ee5h-2cnz-sbg4-3t6w-di5q");
    assert_eq!(Secret::typed(&text), Ok(own.clone()));
    // Neither seals nor opens anything: it is no passphrase.
    for mistyped in [text.replace("ee5h", "ee5g"), text[..text.len() - 1].to_owned()] {
        let refusal = Secret::typed(&mistyped).expect_err("refused");
        assert!(refusal.to_string().contains("typing error"), "{refusal}");
    }
    let bytes = sealed(&plain(10), &own);
    assert!(matches!(opened(&bytes, &other), Err(BackupError::RecoveryKey(_))));
    assert!(!format!("{own:?}").contains("kqr"));
}

#[test]
fn every_bit_counts() {
    let secret = secret();
    for size in [3, 2 * BACKUP_RECORD_BYTES + 5] {
        let good = sealed(&plain(size), &secret);
        let step = if size < 10 { 1 } else { 4099 };
        for at in (0..good.len()).step_by(step).chain(0..HEAD_BYTES) {
            for bit in [0, 7] {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                let error = opened(&bad, &secret).expect_err("noticed");
                let fits = match error {
                    BackupError::NoBackup => at < 4,
                    BackupError::Head => (4..HEAD_BYTES).contains(&at),
                    BackupError::Damaged(from) => {
                        let from = usize::try_from(from).expect("small");
                        (from..from + BACKUP_RECORD_BYTES + 16).contains(&at)
                    }
                    _ => false,
                };
                assert!(fits, "byte {at}: {error}");
            }
        }
    }
}

#[test]
fn what_is_cut_off_or_goes_on_is_no_backup() {
    let secret = secret();
    let record = BACKUP_RECORD_BYTES + 16;
    for size in SIZES {
        let good = sealed(&plain(size), &secret);
        let near = |at: usize| at.saturating_sub(2)..(at + 3).min(good.len());
        let cuts = (0..=good.len() / record).flat_map(|nth| near(HEAD_BYTES + nth * record));
        for cut in cuts.chain(near(0)).chain(good.len() - 3..good.len()) {
            let error = opened(&good[..cut], &secret).expect_err("noticed");
            let at_end = cut >= HEAD_BYTES && (cut - HEAD_BYTES).is_multiple_of(record);
            match error {
                BackupError::NoBackup => assert!(cut < HEAD_BYTES),
                BackupError::Short => {}
                BackupError::Damaged(_) => assert!(!at_end, "{size} {cut}"),
                other => panic!("{size} cut at {cut}: {other}"),
            }
        }
        let longer = [good.as_slice(), b"x"].concat();
        assert!(matches!(opened(&longer, &secret), Err(BackupError::Damaged(_))), "{size}");
    }
    let other = sealed(&plain(2 * record), &secret);
    let mixed = [
        &sealed(&plain(2 * record), &secret)[..HEAD_BYTES + record],
        &other[HEAD_BYTES + record..],
    ];
    assert!(matches!(opened(&mixed.concat(), &secret), Err(BackupError::Damaged(_))));
}

#[test]
fn other_formats_are_named() {
    let secret = secret();
    let mut later = sealed(b"x", &secret);
    later[4] = 9;
    let crc = crc32c::crc32c(&later[..HEAD_BYTES - 4]).to_le_bytes();
    later[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&crc);
    assert_eq!(opened(&later, &secret), Err(BackupError::Format(9)));
    assert_eq!(
        opened(
            b"PK\x03\x04 something else that is long enough to hold a head of sixty-four bytes",
            &secret
        ),
        Err(BackupError::NoBackup)
    );
    assert_eq!(opened(b"", &secret), Err(BackupError::NoBackup));
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let folder = std::env::temp_dir().join(format!("kumquat-backup-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("tmp");
    let (path, fresh) = (folder.join("a.backup"), folder.join("a.backup.new"));
    std::fs::write(&fresh, "left by a power cut").expect("written");
    let mut unfinished = Unfinished::create(&path).expect("made");
    unfinished.write_all(b"half").expect("written");
    drop(unfinished);
    assert!(!fresh.exists() && !path.exists());
    std::fs::write(&path, "the one before").expect("written");
    let mut whole = Unfinished::create(&path).expect("made");
    whole.write_all(b"whole").expect("written");
    let mut text = String::new();
    whole.read_back().expect("read").read_to_string(&mut text).expect("text");
    assert_eq!(text, "whole");
    assert_eq!(std::fs::read(&path).expect("there"), b"the one before");
    whole.name().expect("named");
    assert_eq!(std::fs::read(&path).expect("there"), b"whole");
    assert!(!fresh.exists() && on_same_disk(&folder, &path).expect("there"));
    std::fs::remove_dir_all(folder).expect("removed");
}
