//! What goes wrong, chosen by the seed, and what an administrator asks for meanwhile.

use super::Mutant;
use super::random::Random;
use super::words::{BOARDS_MAX, Entry, Payload, Wire};
use super::world::{Event, World};

impl World {
    /// One fault, or the end of some.
    pub(super) fn fault(&mut self) {
        match self.common.random.below(20) {
            0 | 1 => self.spoil_wire(),
            2..=4 => self.cut_wire(),
            5 | 6 => {
                self.say(|| "the wire is good".into());
                self.wire = Wire::good();
            }
            7..=9 => self.crash_one(),
            10 => self.crash_all(),
            11 | 12 => self.wipe_one(),
            13 | 14 => self.pause_one(),
            15 => self.flap_one(),
            16 => self.shift_clock(),
            17 => {
                let board = self.any();
                self.boards[board].able = !self.boards[board].able;
            }
            18 => self.remove_one(),
            _ => self.lose_one(),
        }
    }

    fn any(&mut self) -> usize {
        self.common.random.below(self.boards.len())
    }

    fn spoil_wire(&mut self) {
        let random = &mut self.common.random;
        self.wire.drop_percent = random.range(0, 40);
        self.wire.double_percent = random.range(0, 30);
        self.wire.late_percent = random.range(0, 30);
        self.wire.late_ms_max = random.range(1, 5_000);
        self.say(|| "the wire is bad".into());
    }

    /// Blocks the way from some boards to others, in one direction or both.
    fn cut_wire(&mut self) {
        let random: &mut Random = &mut self.common.random;
        let side = random.next();
        let both = random.percent(50);
        self.wire.blocked = [[false; BOARDS_MAX]; BOARDS_MAX];
        for from in 0..BOARDS_MAX {
            for to in 0..BOARDS_MAX {
                let (one, other) = (side >> from & 1, side >> to & 1);
                self.wire.blocked[from][to] = one > other || (both && one != other);
            }
        }
        self.say(|| format!("the wire is cut, sides {:b}, both ways {both}", side & 0x3ff));
    }

    fn crash(&mut self, board: usize) {
        let quick = self.common.random.percent(40);
        let pause = self.common.random.range(50, if quick { 800 } else { 15_000 });
        self.say(|| format!("b{board} crashes for {pause} ms"));
        self.boards[board].crash(self.common.mutant);
        self.at(self.now + pause, Event::Restart(board));
    }

    fn crash_one(&mut self) {
        let board = match (self.leader(), self.common.random.percent(40)) {
            (Some(leader), true) => leader,
            _ => self.any(),
        };
        self.crash(board);
    }

    fn crash_all(&mut self) {
        for board in 0..self.boards.len() {
            self.crash(board);
        }
    }

    /// Loses a disk, as long as what is committed is on the disks of majorities without it.
    fn wipe_one(&mut self) {
        let board = self.any();
        if self.boards[board].gone || !self.may_lose(board) {
            return;
        }
        self.say(|| format!("b{board} is wiped"));
        self.boards[board].crash(Mutant::None);
        self.boards[board].wipe(&mut self.common.random);
        let pause = self.common.random.range(200, 15_000);
        self.at(self.now + pause, Event::Restart(board));
    }

    /// Whether the cluster can be without this board's replica for good, whatever configuration is in
    /// force in the end. Before there is a cluster: whether it has promised nothing.
    fn may_lose(&self, board: usize) -> bool {
        let Some(held) = self.boards[board].held() else {
            return self.boards[board].has_promised_nothing();
        };
        let is_there = |id| {
            let there = |one: &super::board::Board| one.held() == Some(id) && one.index != board;
            self.boards.iter().any(|one| !one.gone && there(one))
        };
        let committed = &self.common.checks.committed;
        let newest = |entry: &&Entry| matches!(entry.payload, Payload::Members(_));
        let in_force = committed.iter().rev().find(newest);
        let logs = self.boards.iter().filter_map(|board| board.log());
        let beyond = logs.filter_map(|log| log.get(committed.len()..)).flatten();
        let groups = in_force.into_iter().chain(beyond).filter_map(|entry| match &entry.payload {
            Payload::Members(members) => Some(members),
            _ => None,
        });
        let mut groups = groups.filter(|members| members.get(held).is_some());
        groups.all(|members| members.is_quorum(is_there))
    }

    fn pause_one(&mut self) {
        let board = self.any();
        let pause = self.common.random.range(500, 12_000);
        self.say(|| format!("b{board} stands still for {pause} ms"));
        self.paused[board] = self.now + pause;
    }

    fn flap_one(&mut self) {
        let board = self.any();
        let pause = self.common.random.range(5_000, 40_000);
        self.say(|| format!("b{board} flaps for {pause} ms"));
        self.boards[board].flaps = true;
        self.at(self.now + pause, Event::Resume(board));
    }

    fn shift_clock(&mut self) {
        if self.bad_clocks {
            let board = self.any();
            let years = [-60, 0, 20, 50][self.common.random.below(4)];
            self.boards[board].clock_off = years * 365 * 24 * 3600;
            self.boards[board].synced = years == 0;
        }
    }

    /// An administrator removes or evicts a board.
    fn remove_one(&mut self) {
        let Some(leader) = self.leader() else { return };
        let board = if self.common.random.percent(50) { leader } else { self.any() };
        let staying = self.staying(leader);
        if self.leaves >= 2 || !staying.contains(&board) || staying.len() < 2 {
            return;
        }
        let evict = self.common.random.percent(50);
        // Evicted is gone at once: only what the group can do without.
        if evict && (board == leader || !self.may_lose(board)) {
            return;
        }
        self.leaves += 1;
        self.say(|| format!("b{board} is to go, evicted {evict}"));
        let payload = if evict { Payload::Evict(board) } else { Payload::Leave(board) };
        self.boards[leader].propose(payload);
    }

    /// Breaks a board for good.
    fn lose_one(&mut self) {
        let board = self.any();
        if self.lasting && self.boards[board].held().is_some() && self.may_lose(board) {
            self.say(|| format!("b{board} is broken for good"));
            self.boards[board].crash(Mutant::None);
            self.boards[board].gone = true;
        }
    }
}
