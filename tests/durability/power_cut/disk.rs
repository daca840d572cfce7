//! The states that two files may have on a disk, by the recorded writes and syncs.
//!
//! The rules are those of the page cache. A write changes the page in memory. From then on the disk may have any
//! state of the page since its last sync, also the newest. After a sync that succeeds, the disk has the state in
//! memory of each written page. After a sync that fails, every state is possible that was possible before. The kernel
//! does not write those pages again: later syncs leave them so, until they are written anew.

use std::rc::Rc;

pub const PAGE: usize = 4096;
pub const SECTOR: usize = 512;

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskEntry {
    Write { offset: u64, data: Vec<u8>, outcome: Write },
    Sync { fine: bool },
    Length(u64),
    Placed(Vec<u8>),
    FolderSynced,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Plain,
    /// Ended, with a sync of itself.
    Synced,
    /// Was to sync itself, and said EIO.
    Failed,
}

impl DiskEntry {
    /// The entries of a log, each with its end, and with the file that it is about.
    pub fn all(mut log: &[u8]) -> Vec<(u64, usize, Self)> {
        let whole = log.len();
        let mut entries = Vec::new();
        while let Some((head, rest)) = log.split_at_checked(24) {
            let number = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap());
            let (offset, length) = (number(8), number(16));
            // Cut with the process that wrote it.
            let Some((data, rest)) = rest.split_at_checked(length as usize) else { break };
            let entry = match (head[0], head[1]) {
                (b'W', flag) => Self::Write {
                    offset,
                    data: data.to_vec(),
                    outcome: [Write::Plain, Write::Synced, Write::Failed][usize::from(flag)],
                },
                (b'S', flag) => Self::Sync { fine: flag == 0 },
                (b'T', _) => Self::Length(offset),
                (b'R', _) => Self::Placed(data.to_vec()),
                (b'D', _) => Self::FolderSynced,
                (kind, _) => panic!("entry of kind {kind}"),
            };
            log = rest;
            entries.push(((whole - log.len()) as u64, usize::from(head[2]), entry));
        }
        entries
    }
}

type Bytes = Rc<[u8; PAGE]>;

#[derive(Debug, Clone)]
struct Page {
    memory: Bytes,
    /// What the disk may hold; always at least one.
    possible: Vec<Bytes>,
    dirty: bool,
}

impl Page {
    fn synced(&mut self) {
        self.possible = vec![Rc::clone(&self.memory)];
        self.dirty = false;
    }
}

/// What a file may hold, if it is there.
pub type State<'s> = Option<&'s [u8]>;

/// The data file and its journal.
#[derive(Debug, Clone, Default)]
pub struct Disks {
    pub data: Disk,
    pub journal: Disk,
}

impl Disks {
    pub fn apply(&mut self, file: usize, entry: &DiskEntry) {
        match (file, entry) {
            (_, DiskEntry::FolderSynced) => {
                self.data.apply(entry);
                self.journal.apply(entry);
            }
            (0, entry) => self.data.apply(entry),
            (_, entry) => {
                // It is made where it lies.
                self.journal.placed = true;
                self.journal.apply(entry);
            }
        }
    }

    /// Calls `look` with states that the disk may hold of both files: those of each that
    /// [`Disk::states`] gives, beside one of the other.
    pub fn states(
        &self,
        unit: usize,
        most: usize,
        pick: &mut dyn FnMut(usize) -> usize,
        look: &mut dyn FnMut(State<'_>, State<'_>),
    ) {
        let [mut data, mut journal] = [Vec::new(), Vec::new()];
        for (disk, all) in [(&self.data, &mut data), (&self.journal, &mut journal)] {
            disk.states(unit, most, pick, &mut |state| all.push(state.map(<[u8]>::to_vec)));
        }
        for number in 0..data.len().max(journal.len()) {
            let mut index = |all: &[Option<Vec<u8>>]| match number < all.len() {
                true => number,
                false => pick(all.len()),
            };
            let (data_at, journal_at) = (index(&data), index(&journal));
            look(data[data_at].as_deref(), journal[journal_at].as_deref());
        }
    }
}

/// A file, in memory and on the disk.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pages: Vec<Page>,
    length: u64,
    synced_length: u64,
    /// It has its name, and has it for good.
    placed: bool,
    named: bool,
}

impl Disk {
    pub fn apply(&mut self, entry: &DiskEntry) {
        match entry {
            DiskEntry::Write { offset, data, outcome } => self.write(*offset, data, *outcome),
            DiskEntry::Sync { fine } => {
                for page in self.pages.iter_mut().filter(|p| p.dirty) {
                    if *fine {
                        page.synced();
                    }
                    page.dirty = false;
                }
                if *fine {
                    self.synced_length = self.length;
                }
            }
            DiskEntry::Length(length) => {
                assert!(*length >= self.length, "no write shortens the file");
                self.grow(*length);
            }
            DiskEntry::Placed(data) => {
                *self = Self { placed: true, ..Self::default() };
                self.write(0, data, Write::Synced);
                self.synced_length = self.length;
            }
            DiskEntry::FolderSynced => self.named = self.placed,
        }
    }

    /// The file as it reads while the power is on.
    pub fn memory(&self) -> Vec<u8> {
        let mut memory: Vec<u8> = self.pages.iter().flat_map(|page| *page.memory).collect();
        memory.truncate(self.length as usize);
        memory
    }

    fn grow(&mut self, length: u64) {
        self.length = self.length.max(length);
        let zeros: Bytes = Rc::new([0; PAGE]);
        let blank = Page { memory: Rc::clone(&zeros), possible: vec![zeros], dirty: false };
        self.pages.resize((self.length as usize).div_ceil(PAGE), blank);
    }

    fn write(&mut self, offset: u64, data: &[u8], outcome: Write) {
        let end = offset + data.len() as u64;
        self.grow(end);
        if outcome == Write::Synced {
            // The length with the data, as far as that needs it.
            self.synced_length = self.synced_length.max(end);
        }
        let (mut at, mut data) = (offset as usize, data);
        while !data.is_empty() {
            let page = &mut self.pages[at / PAGE];
            let (now, later) = data.split_at(data.len().min(PAGE - at % PAGE));
            let mut memory = *page.memory;
            memory[at % PAGE..][..now.len()].copy_from_slice(now);
            page.memory = Rc::new(memory);
            page.possible.push(Rc::clone(&page.memory));
            page.dirty = outcome == Write::Plain;
            if outcome == Write::Synced {
                page.synced();
            }
            at += now.len();
            data = later;
        }
    }

    /// The units of `unit` bytes that may differ, with all they may be.
    fn open(&self, unit: usize) -> Vec<(usize, Vec<&[u8]>)> {
        let mut open = Vec::new();
        for (number, page) in self.pages.iter().enumerate().filter(|(_, p)| p.possible.len() > 1) {
            for at in (0..PAGE).step_by(unit) {
                let mut choices: Vec<&[u8]> =
                    page.possible.iter().map(|bytes| &bytes[at..at + unit]).collect();
                choices.sort_unstable();
                choices.dedup();
                if choices.len() > 1 {
                    open.push((number * PAGE + at, choices));
                }
            }
        }
        open
    }

    /// Calls `look` with states that the disk may be in, torn between units of `unit` bytes: with
    /// all of them if they are no more than `most`, otherwise with `most` of them, the extremes among
    /// them. No state (`None`) is a file without a name. `pick(n)` chooses a number below n.
    pub fn states(
        &self,
        unit: usize,
        most: usize,
        pick: &mut dyn FnMut(usize) -> usize,
        look: &mut dyn FnMut(Option<&[u8]>),
    ) {
        if !self.named {
            look(None);
        }
        if !self.placed {
            return;
        }
        let open = self.open(unit);
        let lengths = match self.length == self.synced_length {
            true => vec![self.length],
            false => vec![self.synced_length, self.length],
        };
        let all = open
            .iter()
            .try_fold(lengths.len(), |n, (_, choices)| n.checked_mul(choices.len()))
            .unwrap_or(usize::MAX);
        let mut state = Vec::with_capacity(self.length as usize);
        for page in &self.pages {
            state.extend_from_slice(&page.possible[0][..]);
        }
        let mut build = |length: usize, choose: &mut dyn FnMut(usize, usize) -> usize| {
            for (number, (at, choices)) in open.iter().enumerate() {
                let choice = choices[choose(number, choices.len())];
                state[*at..at + unit].copy_from_slice(choice);
            }
            look(Some(&state[..length]));
        };
        if all <= most {
            for mut number in 0..all {
                let length = lengths[number % lengths.len()];
                number /= lengths.len();
                build(length as usize, &mut |_, n| {
                    let choice = number % n;
                    number /= n;
                    choice
                });
            }
            return;
        }
        for number in 0..most {
            let length = lengths[pick(lengths.len())] as usize;
            let one = pick(open.len().max(1));
            let few = 1 + pick(8);
            match number % 4 {
                // One unit is otherwise than all others, which are as in memory or as before; the
                // order of choices means nothing, so this is done by value.
                0 | 1 => {
                    let old = number % 4 == 0;
                    build(length, &mut |n, all| {
                        let (at, choices) = &open[n];
                        let page = &self.pages[at / PAGE];
                        let version = match old != (n == one) {
                            true => &page.possible[0],
                            false => &page.memory,
                        };
                        let wanted = &version[at % PAGE..at % PAGE + unit];
                        choices.iter().position(|c| *c == wanted).unwrap_or(all - 1)
                    });
                }
                2 => build(length, &mut |_, n| pick(n)),
                // Most are as in memory.
                _ => build(length, &mut |n, all| {
                    let (at, choices) = &open[n];
                    let wanted = &self.pages[at / PAGE].memory[at % PAGE..at % PAGE + unit];
                    match pick(few) {
                        0 => pick(all),
                        _ => choices.iter().position(|c| *c == wanted).unwrap_or(0),
                    }
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: u8) -> Vec<u8> {
        vec![fill; PAGE]
    }

    fn states(disk: &Disk, unit: usize) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        disk.states(unit, 1000, &mut |_| 0, &mut |s| found.push(s.unwrap().to_vec()));
        found.sort();
        found.dedup();
        found
    }

    fn written(offset: usize, fill: u8, outcome: Write) -> DiskEntry {
        DiskEntry::Write { offset: offset as u64, data: page(fill), outcome }
    }

    fn disk(entries: &[DiskEntry]) -> Disk {
        let mut disk = Disk::default();
        disk.apply(&DiskEntry::Placed(page(0)));
        disk.apply(&DiskEntry::FolderSynced);
        entries.iter().for_each(|entry| disk.apply(entry));
        disk
    }

    #[test]
    fn an_unsynced_write_may_be_on_the_disk_or_not() {
        let two = [written(0, 1, Write::Plain), written(0, 2, Write::Plain)];
        assert_eq!(states(&disk(&two), PAGE), [page(0), page(1), page(2)]);
        let synced = [two.to_vec(), vec![DiskEntry::Sync { fine: true }]].concat();
        assert_eq!(states(&disk(&synced), PAGE), [page(2)]);
        assert_eq!(states(&disk(&[written(0, 1, Write::Synced)]), PAGE), [page(1)]);
        assert_eq!(states(&disk(&two[..1]), SECTOR).len(), 256);
        let longer = [written(PAGE, 1, Write::Plain)];
        assert_eq!(states(&disk(&longer), PAGE).len(), 3);
    }

    #[test]
    fn a_failed_sync_stays_in_doubt_until_the_page_is_written_again() {
        let failed = [
            written(0, 1, Write::Plain),
            DiskEntry::Sync { fine: false },
            DiskEntry::Sync { fine: true },
        ];
        assert_eq!(states(&disk(&failed), PAGE), [page(0), page(1)]);
        let again =
            [failed.to_vec(), vec![written(0, 1, Write::Plain), DiskEntry::Sync { fine: true }]]
                .concat();
        assert_eq!(states(&disk(&again), PAGE), [page(1)]);
    }
}
