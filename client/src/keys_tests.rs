//! The life of key files: made, confirmed, retired, and never overwritten.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn name(text: &str) -> AccountName {
    AccountName::parse(text).expect("a name")
}

/// A cluster whose file begins like this.
fn cluster(text: &str) -> Cluster {
    Cluster::parse(&format!("{text}\n[[replica]]\nname = 'a'\naddress = 'x:1'\n")).expect("a good file")
}

fn keys() -> (tempfile::TempDir, Keys) {
    let directory = tempfile::tempdir().expect("a directory");
    let keys = Keys::new(&directory.path().join("a").join("keys"), &cluster("name = 'demo'\nid = '1'"));
    (directory, keys)
}

/// Treats the keys as a successful create does.
fn create(keys: &Keys, account: &str) -> SecretKey {
    let secret = keys.load_or_create(&name(account)).expect("made");
    keys.confirm(&name(account), &secret).expect("confirmed");
    secret
}

fn loaded(keys: &Keys, account: &str) -> Option<[u8; 32]> {
    keys.load(&name(account)).expect("no fault").map(|secret| secret.seed())
}

/// The files of keys, by name.
fn files(keys: &Keys) -> Vec<String> {
    let entries = fs::read_dir(&keys.directory).expect("readable");
    let names = entries.map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.filter(|name| name != LOCK_FILE).collect();
    names.sort();
    names
}

#[test]
fn a_key_is_made_once_for_its_owner_only() {
    let (_directory, keys) = keys();
    assert_eq!(loaded(&keys, "alice"), None);
    let made = keys.load_or_create(&name("alice")).expect("made");
    assert_eq!(files(&keys), ["alice.key.new"], "no drafts, and nothing that looks confirmed");
    assert_eq!((loaded(&keys, "alice"), keys.accounts().expect("readable").len()), (Some(made.seed()), 0));
    assert_eq!(create(&keys, "alice").seed(), made.seed());

    let mode = |path: &Path| fs::metadata(path).expect("it exists").mode() & 0o777;
    assert_eq!((mode(&keys.path(&name("alice"))), mode(&keys.directory)), (0o600, 0o700));
    assert_eq!(files(&keys), ["alice.key"]);
    assert_ne!(create(&keys, "bob").seed(), made.seed());
}

#[test]
fn clusters_do_not_share_keys() {
    let (directory, one) = keys();
    let of_one = create(&one, "alice");
    // One with another name, and two with the same name and other ids.
    let texts = ["name = 'other'\nid = '1'", "name = 'demo'\nid = '2'", "name = 'demo'\nid = '3'"];
    let others = texts.map(|text| Keys::new(&directory.path().join("a").join("keys"), &cluster(text)));
    let seeds = others.each_ref().map(|keys| create(keys, "alice").seed());
    assert!(seeds[0] != seeds[1] && seeds[1] != seeds[2] && !seeds.contains(&of_one.seed()));
    assert!(one.retire(&name("alice"), &of_one).expect("renamed").is_some());
    assert_eq!(loaded(&one, "alice"), None);
    assert_eq!(others.each_ref().map(|keys| loaded(keys, "alice")), seeds.map(Some));
}

#[test]
fn the_key_of_a_deleted_account_is_set_aside_and_the_next_create_has_another() {
    let (_directory, keys) = keys();
    let mut seeds = Vec::new();
    for _ in 0..3 {
        let secret = create(&keys, "alice");
        let kept = keys.retire(&name("alice"), &secret).expect("renamed").expect("it was there");
        assert!(kept.display().to_string().contains("alice.key.deleted-2"), "{kept:?}");
        assert_eq!(read(&kept, &name("alice")).expect("no fault").map(|key| key.seed()), Some(secret.seed()));
        assert!(!seeds.contains(&secret.seed()));
        seeds.push(secret.seed());
    }
    assert_eq!((files(&keys).len(), loaded(&keys, "alice")), (3, None));
}

#[test]
fn the_key_of_an_account_that_was_created_again_is_not_set_aside() {
    let (_directory, keys) = keys();
    let old = create(&keys, "alice");
    assert!(keys.retire(&name("alice"), &old).expect("renamed").is_some());
    let new = create(&keys, "alice");
    assert!(keys.retire(&name("alice"), &old).expect("no fault").is_none());
    assert_eq!(loaded(&keys, "alice"), Some(new.seed()));
}

#[test]
fn whichever_of_two_creates_takes_effect_its_key_is_kept() {
    // Both begin before either is confirmed.
    let (_directory, keys) = keys();
    let (one, two) = (keys.load_or_create(&name("alice")), keys.load_or_create(&name("alice")));
    let (one, two) = (one.expect("made"), two.expect("found"));
    keys.confirm(&name("alice"), &two).expect("confirmed");
    assert_eq!((loaded(&keys, "alice"), one.seed()), (Some(two.seed()), two.seed()));

    // The other one deletes the account, and the first has created it again before it learns of that.
    assert!(keys.retire(&name("alice"), &two).expect("renamed").is_some());
    keys.confirm(&name("alice"), &one).expect("written");
    assert_eq!(loaded(&keys, "alice"), Some(one.seed()));
}

#[test]
fn a_confirmed_key_takes_the_place_of_another_which_is_set_aside() {
    let (_directory, keys) = keys();
    let other = create(&keys, "alice");
    let confirmed = SecretKey::from_seed(&[1; 32]);
    keys.confirm(&name("alice"), &confirmed).expect("confirmed");
    assert_eq!(loaded(&keys, "alice"), Some(confirmed.seed()));
    let aside = files(&keys).into_iter().find(|file| file.starts_with("alice.key.replaced-")).expect("it is kept");
    let aside = read(&keys.directory.join(aside), &name("alice")).expect("no fault").expect("it is there");
    assert_eq!(aside.seed(), other.seed());
}

#[test]
fn many_processes_that_create_and_delete_lose_no_key() {
    let (_directory, keys) = keys();
    let account = name("alice");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let secret = create(&keys, "alice");
                    keys.retire(&account, &secret).expect("no fault");
                }
            });
        }
    });
    let last = create(&keys, "alice");
    assert_eq!(loaded(&keys, "alice"), Some(last.seed()));
    let is_aside =
        |file: &String| ["alice.key.deleted-", "alice.key.replaced-"].iter().any(|why| file.starts_with(why));
    assert!(files(&keys).iter().all(|file| file == "alice.key" || is_aside(file)), "{:?}", files(&keys));
}

#[test]
fn accounts_are_listed_by_name_and_other_files_are_not() {
    let (_directory, keys) = keys();
    assert_eq!(keys.accounts().expect("no fault"), []);
    create(&keys, "bob");
    create(&keys, "alice");
    for other in ["notes.txt", "Not A Name.key", ".alice.0123", "carol.key.new", "dave.key.deleted-2026"] {
        fs::write(keys.directory.join(other), "").expect("written");
    }
    assert_eq!(keys.accounts().expect("readable"), [name("alice"), name("bob")]);
}

#[test]
fn an_existing_file_is_never_overwritten() {
    let (_directory, keys) = keys();
    create(&keys, "alice");
    let path = keys.path(&name("alice"));
    let before = fs::read(&path).expect("readable");
    let error = keys.store(&path, &name("alice"), &SecretKey::from_seed(&[1; 32])).expect_err("it is there");
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!((fs::read(&path).expect("readable"), files(&keys).len()), (before, 1));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (_directory, keys) = keys();
    create(&keys, "alice");
    fs::set_permissions(keys.path(&name("alice")), fs::Permissions::from_mode(0o640)).expect("changed");
    let error = keys.load(&name("alice")).err().expect("refused").to_string();
    assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
}

#[test]
fn a_malformed_key_says_what_is_wrong() {
    let (_directory, keys) = keys();
    create(&keys, "alice");
    let path = keys.path(&name("alice"));
    let good = fs::read_to_string(&path).expect("readable");
    for (text, fault) in [
        (String::new(), "not a key file"),
        (good.replace("version 1", "version 2"), "not a key file"),
        (good.replace("account alice", "account bob"), "another account"),
        (good.replace("ed25519 ", "ed25519 0"), "64 hexadecimal"),
        (format!("{good}more\n"), "64 hexadecimal"),
        (good.lines().take(2).collect::<Vec<_>>().join("\n"), "third line is missing"),
    ] {
        fs::write(&path, text).expect("written");
        let error = keys.load(&name("alice")).err().expect("malformed").to_string();
        assert!(error.contains(fault), "{error:?} lacks {fault:?}");
    }
}
