//! A binary on trial: how it begins, and what a start finds of it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::record::{Record, State, last};
use super::record::{forget, hex};
use super::staged::{Held, discard_unused};
use super::{guard, process};

/// A staged binary that shall be tried.
#[derive(Debug)]
pub struct Plan {
    /// Which run of the command wants it.
    pub attempt: String,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Where it lies, beside `exe`.
    pub staged: PathBuf,
    /// The binary of this board.
    pub exe: PathBuf,
    /// Seconds within which it has to prove itself.
    pub ready_seconds: u32,
    /// Until this process goes on as it.
    pub held: Held,
}

/// What a start finds.
#[derive(Debug)]
pub enum Begun {
    /// Nothing is on trial.
    Usual,
    /// This process is.
    OnTrial(Trial),
    /// A trial ended with the old binary, which this process is.
    Returned(Record),
}

/// This process has to prove itself.
#[derive(Debug)]
pub struct Trial {
    data: PathBuf,
    record: Record,
}

/// Goes on as the staged binary with the same arguments, guarded; comes back only as the old binary, or
/// with an error.
pub fn exchange(data: &Path, plan: &Plan, arguments: &[OsString]) -> io::Error {
    let mut record = Record {
        state: State::Trial,
        attempt: plan.attempt.clone(),
        sha256: hex(&plan.sha256),
        exe: plan.exe.clone(),
        staged: plan.staged.clone(),
        ready_seconds: plan.ready_seconds,
        began_ms: process::boot_ms(),
        ..Record::default()
    };
    let guarded = record.save(data).and_then(|()| guard::start(data, &plan.exe, arguments));
    let error = match guarded {
        Ok(()) => Command::new(&plan.staged).args(arguments).exec(),
        Err(error) => error,
    };
    record.why = Some(format!("it cannot be started: {error}"));
    record.state = State::Returned;
    // What cannot be written is judged by the next start: this binary is not the one on trial.
    let _unwritten = record.save(data);
    let _gone = fs::remove_file(&plan.staged);
    Command::new(&plan.exe).args(arguments).exec()
}

/// Where a new binary waits until it has proven itself.
pub fn staged_beside(exe: &Path) -> PathBuf {
    let mut name = exe.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".trial");
    exe.with_file_name(name)
}

/// To be called by every start of the board, once it has the data-dir for itself. A disk that is full keeps no
/// board from its start: what cannot be written down is found out again by the next one.
pub fn begin(data: &Path, exe: &Path) -> Begun {
    let Some(mut record) = last(data).filter(|record| record.state == State::Trial) else {
        // What a fetch that was cut has left.
        clear(&staged_beside(exe));
        return Begun::Usual;
    };
    if exe == record.staged || exe == removed(&record.staged) {
        return Begun::OnTrial(Trial { data: data.to_owned(), record });
    }
    if record.is_kept_at(exe) {
        // It had proven itself; a cut came before that was written down.
        record.state = State::Kept;
        note(&record, data);
        return Begun::Usual;
    }
    record.state = State::Returned;
    record.millis = record.age_ms();
    let why = "the board was stopped or lost its power before it was ready with it";
    record.why.get_or_insert_with(|| why.to_owned());
    // First: it may be what fills the disk.
    clear(&record.staged);
    note(&record, data);
    Begun::Returned(record)
}

/// What `/proc/self/exe` says of a program whose file somebody has removed (proc_pid_exe(5)).
fn removed(program: &Path) -> PathBuf {
    let mut name = program.as_os_str().to_owned();
    name.push(" (deleted)");
    name.into()
}

/// Writes down what is so already, if the disk takes it.
fn note(record: &Record, data: &Path) {
    if let Err(error) = record.save(data) {
        tracing::warn!(%error, "upgrade.json cannot be written: free some space");
    }
}

/// Removes a file that was staged here, unless another board of this machine needs one of that name.
fn clear(staged: &Path) {
    let file = staged.display();
    match discard_unused(staged) {
        Ok(true) => {}
        Ok(false) => tracing::info!(%file, "another board of this machine tries a binary"),
        Err(error) => tracing::warn!(%error, %file, "a binary that nobody needs cannot be removed"),
    }
}

impl Trial {
    /// The binary whose place this one takes.
    pub fn exe(&self) -> &Path {
        &self.record.exe
    }

    /// The board has proven itself: the binary takes the place of the old one, durably. Gives how long
    /// that took, in milliseconds.
    ///
    /// # Errors
    /// It cannot have that place: the board has to go back.
    pub fn keep(&mut self) -> io::Result<u64> {
        let Record { staged, exe, .. } = &self.record;
        if let Err(error) = fs::rename(staged, exe) {
            let (staged, exe) = (staged.display(), exe.display());
            self.record.why = Some(format!("{staged} cannot take the place of {exe}: {error}"));
            note(&self.record, &self.data);
            return Err(error);
        }
        // From here on it has it: what fails below is made up by the next start.
        let folder = self.record.exe.parent().unwrap_or(Path::new("/"));
        if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
            tracing::warn!(%error, "a power cut may bring the old binary back");
        }
        self.record.state = State::Kept;
        self.record.millis = self.record.age_ms();
        note(&self.record, &self.data);
        Ok(self.record.millis)
    }

    /// A person stops the board: nobody shall start it again.
    pub fn stopped(&mut self) {
        if self.record.state != State::Trial {
            return;
        }
        self.record.state = State::Returned;
        self.record.millis = self.record.age_ms();
        self.record.why = Some("the board was stopped before it was ready with it".to_owned());
        // What this very process runs; a start removes what stays.
        let _gone = fs::remove_file(&self.record.staged);
        if let Err(error) = self.record.save(&self.data) {
            tracing::warn!(%error, "upgrade.json cannot be written: free some space");
            // The guard takes this for the end as well.
            let _gone = forget(&self.data);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use super::super::staged::{Staging, digest_of};
    use super::*;

    struct Bed {
        data: PathBuf,
        exe: PathBuf,
        staged: PathBuf,
    }

    impl Bed {
        fn new(name: &str) -> Self {
            let name = format!("kumquat-trial-{name}-{}", std::process::id());
            let data = std::env::temp_dir().join(name);
            fs::create_dir_all(&data).expect("folder");
            let (exe, staged) = (data.join("kumquat"), data.join("kumquat.trial"));
            fs::write(&exe, "old").expect("written");
            fs::write(&staged, "new").expect("written");
            let sha256 = hex(&digest_of(&staged).expect("read"));
            let record = Record {
                state: State::Trial,
                sha256,
                exe: exe.clone(),
                staged: staged.clone(),
                ..Record::default()
            };
            record.save(&data).expect("saved");
            Self { data, exe, staged }
        }

        fn begin(&self, exe: &Path) -> Begun {
            begin(&self.data, exe)
        }
    }

    impl Bed {
        /// What is being written has this name, so from here on every write fails, root's too.
        fn fill(&self) {
            fs::create_dir(self.data.join("upgrade.new")).expect("made");
        }

        fn free(&self) {
            fs::remove_dir(self.data.join("upgrade.new")).expect("removed");
        }
    }

    impl Drop for Bed {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.data);
        }
    }

    #[test]
    fn the_new_binary_lies_beside_the_old_one() {
        let staged = staged_beside(Path::new("/usr/local/bin/kumquat"));
        assert_eq!(staged, Path::new("/usr/local/bin/kumquat.trial"));
    }

    #[test]
    fn a_binary_that_proves_itself_takes_the_place() {
        let bed = Bed::new("kept");
        let Begun::OnTrial(mut trial) = bed.begin(&bed.staged) else { panic!("it is on trial") };
        assert_eq!(fs::read_to_string(&bed.exe).expect("there"), "old", "until it has");
        trial.keep().expect("kept");
        assert_eq!(fs::read_to_string(&bed.exe).expect("there"), "new");
        assert_eq!(last(&bed.data).map(|record| record.state), Some(State::Kept));
        trial.stopped();
        assert!(matches!(bed.begin(&bed.exe), Begun::Usual));
        assert_eq!(last(&bed.data).map(|record| record.state), Some(State::Kept));
    }

    #[test]
    fn after_a_power_cut_the_old_one_runs_and_says_so() {
        let bed = Bed::new("cut");
        let Begun::Returned(record) = bed.begin(&bed.exe) else { panic!("it went back") };
        assert!(record.why.is_some_and(|why| why.contains("power")));
        assert!(!bed.staged.exists());
        assert!(matches!(bed.begin(&bed.exe), Begun::Usual), "told once");
    }

    #[test]
    fn a_cut_after_the_rename_leaves_the_new_one() {
        let bed = Bed::new("renamed");
        fs::rename(&bed.staged, &bed.exe).expect("renamed");
        assert!(matches!(bed.begin(&bed.exe), Begun::Usual));
        assert_eq!(last(&bed.data).map(|record| record.state), Some(State::Kept));
    }

    #[test]
    fn a_person_who_stops_the_board_ends_the_trial() {
        let bed = Bed::new("stopped");
        let Begun::OnTrial(mut trial) = bed.begin(&bed.staged) else { panic!("it is on trial") };
        trial.stopped();
        assert_eq!(last(&bed.data).map(|record| record.state), Some(State::Returned));
        assert!(!bed.staged.exists(), "nobody needs it");
        assert!(matches!(bed.begin(&bed.exe), Begun::Usual));
    }

    #[test]
    fn what_a_cut_fetch_left_goes_at_the_next_start() {
        let bed = Bed::new("fetch");
        fs::remove_file(bed.data.join("upgrade.json")).expect("there was no exchange");
        assert!(matches!(bed.begin(&bed.exe), Begun::Usual));
        assert!(!bed.staged.exists());
        assert_eq!(fs::read_to_string(&bed.exe).expect("there"), "old");
    }

    #[test]
    fn what_another_board_fetches_or_tries_stays() {
        let bed = Bed::new("others");
        let digest = digest_of(&bed.staged).expect("read");
        let is_left_alone = |what: &str| {
            assert!(matches!(bed.begin(&bed.exe), Begun::Usual), "{what}");
            assert!(bed.staged.exists(), "{what}");
            let refused = Staging::begin(&bed.staged, 3).expect_err(what).to_string();
            assert!(refused.contains("another kumquat"), "{refused}");
        };
        // This board has nothing on trial; the other one has its record in its own data-dir.
        forget(&bed.data).expect("there");
        let mut staging = Staging::begin(&bed.staged, 3).expect("nobody needs it");
        is_left_alone("it is fetched");
        staging.write(b"new").expect("written");
        let held = staging.finish(&digest).expect("it is what was meant");
        is_left_alone("its board stops its roles");
        drop(held);
        assert!(matches!(bed.begin(&bed.exe), Begun::Usual));
        assert!(!bed.staged.exists());

        fs::copy("/bin/sh", &bed.staged).expect("a program");
        let mut program = Command::new(&bed.staged);
        program.args(["-c", "read line"]).stdin(Stdio::piped());
        let began = Instant::now();
        let mut tried = loop {
            match program.spawn() {
                // A process that was forked at that moment has it open for writing.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    assert!(began.elapsed() < Duration::from_secs(10));
                }
                spawned => break spawned.expect("it runs"),
            }
        };
        is_left_alone("it is on trial");
        tried.kill().expect("killed");
        tried.wait().expect("ended");
        assert!(matches!(bed.begin(&bed.exe), Begun::Usual));
        assert!(!bed.staged.exists());
    }

    #[test]
    fn a_binary_whose_file_is_gone_is_not_kept_and_says_so() {
        let bed = Bed::new("gone");
        fs::remove_file(&bed.staged).expect("there");
        let exe = removed(&bed.staged);
        let Begun::OnTrial(mut trial) = bed.begin(&exe) else { panic!("it is on trial") };
        trial.keep().expect_err("there is nothing to keep");
        assert_eq!(fs::read_to_string(&bed.exe).expect("there"), "old");
        let Begun::Returned(record) = bed.begin(&bed.exe) else { panic!("it went back") };
        let why = record.why.expect("a reason");
        assert!(why.contains("kumquat.trial cannot take the place of"), "{why}");
    }

    #[test]
    fn a_disk_that_takes_nothing_keeps_no_board_from_its_start() {
        let on_disk = |bed: &Bed| last(&bed.data).map(|record| record.state);
        let bed = Bed::new("full-back");
        bed.fill();
        for _ in 0..2 {
            assert!(matches!(bed.begin(&bed.exe), Begun::Returned(_)));
            assert!(!bed.staged.exists());
        }
        assert_eq!(on_disk(&bed), Some(State::Trial), "nothing could be written");

        let bed = Bed::new("full-stopped");
        let Begun::OnTrial(mut trial) = bed.begin(&bed.staged) else { panic!("it is on trial") };
        bed.fill();
        trial.stopped();
        assert_eq!(on_disk(&bed), None, "no guard takes it for a trial");
        assert!(matches!(bed.begin(&bed.exe), Begun::Usual));

        let bed = Bed::new("full-kept");
        let Begun::OnTrial(mut trial) = bed.begin(&bed.staged) else { panic!("it is on trial") };
        bed.fill();
        trial.keep().expect("it has the place");
        for _ in 0..2 {
            assert!(matches!(bed.begin(&bed.exe), Begun::Usual));
            assert_eq!(fs::read_to_string(&bed.exe).expect("there"), "new");
        }
        bed.free();
        assert!(matches!(bed.begin(&bed.exe), Begun::Usual));
        assert_eq!(on_disk(&bed), Some(State::Kept), "made up");
    }
}
