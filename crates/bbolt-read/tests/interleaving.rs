//! The live reader against a writer that goes on at every moment: between two reads of the file, and
//! in the middle of one. The writer does what bbolt does, in the order in which bbolt does it, with
//! pages used again as early as bbolt can.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;

use bbolt_read::{LiveError, LiveReader, ReadAt};
use fastrand::Rng;

const PAGE: usize = 1024;
const PATH: &[&[u8]] = &[b"bucket"];

enum Step {
    Write(usize, Vec<u8>),
    /// The meta page is whole.
    Committed,
    Answered,
}

/// A file, and the writer's next steps.
struct World {
    bytes: Vec<u8>,
    steps: VecDeque<Step>,
    random: Rng,
    /// Sets the pace: the writer goes on at one of this number of moments.
    pace: usize,
    /// The transaction that is being written, or was written last.
    txid: u64,
    /// A number of its own for each attempt to write a transaction: what it stores.
    serial: u64,
    /// What each transaction stored whose meta page is whole.
    committed: HashMap<u64, u64>,
    newest_answered: u64,
}

fn page(id: u64, flags: u16, elements: &[(u32, &[u8], &[u8])]) -> Vec<u8> {
    let mut page = vec![];
    page.extend(id.to_le_bytes());
    page.extend(flags.to_le_bytes());
    page.extend((elements.len() as u16).to_le_bytes());
    page.extend([0; 4]);
    let mut position = elements.len() * 16;
    for (flag, key, value) in elements {
        for number in [*flag, position as u32, key.len() as u32, value.len() as u32] {
            page.extend(number.to_le_bytes());
        }
        position = position - 16 + key.len() + value.len();
    }
    for (_, key, value) in elements {
        page.extend_from_slice(key);
        page.extend_from_slice(value);
    }
    page.resize(PAGE, 0);
    page
}

fn meta(page: u64, txid: u64, root: u64) -> Vec<u8> {
    let mut record = vec![];
    for number in [0xED0C_DAED_u32, 2, PAGE as u32, 0] {
        record.extend(number.to_le_bytes());
    }
    for number in [root, 0, u64::MAX, 6, txid] {
        record.extend(number.to_le_bytes());
    }
    let checksum = record.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    record.extend(checksum.to_le_bytes());
    let mut whole = page.to_le_bytes().to_vec();
    whole.extend([4, 0, 0, 0, 0, 0, 0, 0]);
    whole.extend(record);
    whole
}

/// The two pages that a transaction writes. The next but one writes over them: they are free when
/// the next has committed.
fn data(txid: u64, serial: u64) -> (u64, Vec<u8>, Vec<u8>) {
    let root = 2 + txid % 2 * 2;
    let bucket = [(root + 1).to_le_bytes(), [0; 8]].concat();
    let value = serial.to_le_bytes().repeat(100);
    (
        root,
        page(root, 2, &[(1, b"bucket", &bucket), (0, b"serial", &serial.to_le_bytes())]),
        page(root + 1, 2, &[(0, b"key", &value)]),
    )
}

impl World {
    /// `is_copy`: the meta pages are placed as bbolt's `Tx.WriteTo` places them.
    fn new(seed: u64, is_copy: bool) -> Self {
        let mut world = Self {
            bytes: vec![0; 6 * PAGE],
            steps: VecDeque::new(),
            random: Rng::with_seed(seed),
            pace: 2 + (seed % 9) as usize,
            txid: 7,
            serial: 7,
            committed: HashMap::from([(6, 7), (7, 7)]),
            newest_answered: 6,
        };
        let (root, first, second) = data(7, 7);
        world.put(root as usize * PAGE, &first);
        world.put((root as usize + 1) * PAGE, &second);
        let newest = usize::from(!is_copy);
        world.put(newest * PAGE, &meta(newest as u64, 7, root));
        world.put((1 - newest) * PAGE, &meta(1 - newest as u64, 6, root));
        world
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A write in two steps, as a read may see the first half of it.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let cut = self.random.usize(..bytes.len());
        self.steps.push_back(Step::Write(at, bytes[..cut].to_vec()));
        self.steps.push_back(Step::Write(at + cut, bytes[cut..].to_vec()));
    }

    fn begin(&mut self) {
        self.txid = self.committed.keys().max().unwrap() + 1;
        self.serial += 1;
        let (root, first, second) = data(self.txid, self.serial);
        self.write(root as usize * PAGE, &first);
        self.write((root as usize + 1) * PAGE, &second);
        let place = self.txid % 2;
        self.write(place as usize * PAGE, &meta(place, self.txid, root));
        self.steps.push_back(Step::Committed);
        self.steps.push_back(Step::Answered);
    }

    fn step(&mut self) {
        match self.steps.pop_front() {
            None => self.begin(),
            Some(Step::Write(at, bytes)) => self.put(at, &bytes),
            Some(Step::Committed) => {
                self.committed.insert(self.txid, self.serial);
            }
            Some(Step::Answered) => self.newest_answered = self.txid,
        }
        // The writer is killed and started again; what it had not written is not written. Not at the
        // beginning, as a copy whose newest meta page is torn is no longer whole for bbolt itself.
        let may_die = self.committed.len() > 4;
        let is_committing = matches!(self.steps.front(), Some(Step::Committed));
        if may_die && !is_committing && self.random.usize(..200) == 0 {
            self.steps.clear();
        }
    }

    fn go_on(&mut self) {
        if self.random.usize(..self.pace) == 0 {
            let most = [4, 12, 40][self.random.usize(..3)];
            let count = self.random.usize(..most);
            (0..count).for_each(|_| self.step());
        }
    }
}

struct Source(RefCell<World>);

impl ReadAt for Source {
    fn size(&self) -> io::Result<u64> {
        Ok(6 * PAGE as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let world = &mut *self.0.borrow_mut();
        let cut = world.random.usize(..buffer.len());
        let (first, second) = buffer.split_at_mut(cut);
        world.go_on();
        let at = offset as usize;
        // The place of the second meta page is looked for beyond the end, when the first is torn.
        if at + cut + second.len() > world.bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        first.copy_from_slice(&world.bytes[at..at + cut]);
        world.go_on();
        second.copy_from_slice(&world.bytes[at + cut..at + cut + second.len()]);
        Ok(())
    }
}

/// A transaction commits at each read of the file.
struct Restless(RefCell<World>);

impl ReadAt for Restless {
    fn size(&self) -> io::Result<u64> {
        Ok(6 * PAGE as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let world = &mut *self.0.borrow_mut();
        let committed = world.committed.len();
        while world.committed.len() == committed || !world.steps.is_empty() {
            world.step();
        }
        buffer.copy_from_slice(&world.bytes[offset as usize..][..buffer.len()]);
        Ok(())
    }
}

#[test]
fn a_read_that_is_always_overtaken_gives_up_after_its_tries_or_its_time() {
    let tries_within = |max_time| {
        let source = Restless(RefCell::new(World::new(1, false)));
        let reader = LiveReader::new(source).unwrap().with_max_time(max_time);
        match reader.read(|snapshot| snapshot.value(&[], b"serial")) {
            Err(LiveError::Busy { tries }) => tries,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tries_within(Duration::MAX), 32);
    assert_eq!(tries_within(Duration::ZERO), 4);
}

#[test]
fn a_read_is_whole_and_never_older_than_an_answer() {
    let rounds = std::env::var("BBOLT_READ_ROUNDS").map_or(100, |n| n.parse().unwrap());
    let (mut exact, mut retried, mut busy) = (0, 0, 0);
    for seed in 0..rounds {
        let source = Source(RefCell::new(World::new(seed, seed % 3 == 0)));
        let Ok(reader) = LiveReader::new(source) else { panic!("seed {seed}: not opened") };
        for _ in 0..40 {
            let answered = reader.source().0.borrow().newest_answered;
            let read = reader.read(|snapshot| {
                let first = snapshot.value(&[], b"serial")?;
                Ok((first, snapshot.value(PATH, b"key")?))
            });
            let read = match read {
                Ok(read) => read,
                Err(LiveError::Busy { .. }) => {
                    busy += 1;
                    continue;
                }
                Err(e) => panic!("seed {seed}: {e}"),
            };
            let world = reader.source().0.borrow();
            // The meta page may be whole a moment before the writer notes it.
            let serial = match world.committed.get(&read.txid) {
                Some(serial) => *serial,
                None if read.txid == world.txid => world.serial,
                None => panic!("seed {seed}: transaction {} never was", read.txid),
            };
            let whole =
                (Some(serial.to_le_bytes().to_vec()), Some(serial.to_le_bytes().repeat(100)));
            assert!(read.value == whole, "seed {seed}: what transaction {} has not", read.txid);
            assert!(read.txid >= answered, "seed {seed}: {} after {answered}", read.txid);
            exact += 1;
            retried += u64::from(read.tries > 1);
        }
    }
    println!("{exact} reads were exact, {retried} of them not at once; {busy} gave up");
    assert!(exact > 30 * rounds && retried > rounds && busy > 0, "{exact} {retried} {busy}");
}
