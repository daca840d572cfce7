//! Pages of a file or of bytes in memory, read one at a time, and sets of page numbers.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::layout::{PAGE_HEADER, Page};

/// Damage of a file, as part of a sentence: `page 7 …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage(pub String);

impl Damage {
    /// Damage of one page.
    pub fn page(number: u64, what: impl std::fmt::Display) -> Self {
        Self(format!("page {number} {what}"))
    }
}

impl std::error::Error for Damage {}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A source of bytes: a file, or memory.
pub trait ReadAt: Sync {
    /// The number of bytes.
    fn length(&self) -> io::Result<u64>;

    /// Fills `buffer` from the offset `at`.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn length(&self) -> io::Result<u64> {
        self.metadata().map(|m| m.len())
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(buffer, at)
    }
}

impl ReadAt for [u8] {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.get(at..));
        let found = from.and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The pages of a source.
#[derive(Debug)]
pub struct Pages<'s, S: ReadAt + ?Sized> {
    source: &'s S,
    /// Bytes of a page.
    pub size: usize,
    /// The number of whole pages in the source.
    pub present: u64,
}

impl<'s, S: ReadAt + ?Sized> Pages<'s, S> {
    /// The pages of `source`, of `size` bytes each.
    pub fn new(source: &'s S, size: usize) -> Result<Self, Damage> {
        let length = source.length().map_err(|e| Damage(format!("its length is unknown: {e}")))?;
        Ok(Self { source, size, present: length / size.max(1) as u64 })
    }

    /// Reads a page without comparing its number.
    pub fn read_raw<'b>(&self, number: u64, buffer: &'b mut Vec<u8>) -> Result<Page<'b>, Damage> {
        self.check_present(number, 1)?;
        buffer.resize(self.size, 0);
        self.fill(number, 0, buffer)?;
        Ok(Page(buffer))
    }

    /// Reads a page, whose header must have its number.
    pub fn read<'b>(&self, number: u64, buffer: &'b mut Vec<u8>) -> Result<Page<'b>, Damage> {
        let page = self.read_raw(number, buffer)?;
        check_number(page, number)?;
        Ok(page)
    }

    /// Reads only the header of a page.
    pub fn read_header<'b>(
        &self,
        number: u64,
        buffer: &'b mut [u8; PAGE_HEADER],
    ) -> Result<Page<'b>, Damage> {
        self.check_present(number, 1)?;
        self.fill(number, 0, buffer)?;
        let page = Page(buffer);
        check_number(page, number)?;
        Ok(page)
    }

    /// Reads the value of `length` bytes in the run of pages that begins at `number`.
    pub fn read_overflow(
        &self,
        number: u64,
        length: u32,
        value: &mut Vec<u8>,
    ) -> Result<(), Damage> {
        // Checked before the memory is allocated.
        self.check_present(number, pages_of(length, self.size))?;
        value.resize(length as usize, 0);
        self.fill(number, PAGE_HEADER as u64, value)
    }

    fn check_present(&self, number: u64, count: u64) -> Result<(), Damage> {
        match number.checked_add(count) {
            Some(end) if end <= self.present => Ok(()),
            _ => Err(Damage::page(number, "lies behind the end of the file")),
        }
    }

    fn fill(&self, number: u64, skip: u64, buffer: &mut [u8]) -> Result<(), Damage> {
        // `present` has bounded the number.
        let at = number * self.size as u64 + skip;
        let read = self.source.read_at(buffer, at);
        read.map_err(|e| Damage::page(number, format_args!("cannot be read: {e}")))
    }
}

fn check_number(page: Page<'_>, number: u64) -> Result<(), Damage> {
    match page.number() {
        Some(found) if found == number => Ok(()),
        found => Err(Damage::page(
            number,
            format_args!("says it is number {}", found.unwrap_or_default()),
        )),
    }
}

/// The number of pages of a value of `length` bytes.
pub fn pages_of(length: u32, page_size: usize) -> u64 {
    (PAGE_HEADER as u64 + u64::from(length)).div_ceil(page_size as u64)
}

/// A set of page numbers below a bound.
#[derive(Debug)]
pub struct PageSet {
    words: Vec<u64>,
    bound: u64,
    /// The number of its members.
    pub count: u64,
}

impl PageSet {
    /// An empty set of numbers below `bound`.
    pub fn with_bound(bound: u64) -> Self {
        Self { words: vec![0; bound.div_ceil(64) as usize], bound, count: 0 }
    }

    /// Adds a number. Returns false if it is in the set already, or not below the bound.
    pub fn add(&mut self, number: u64) -> bool {
        let bit = 1u64 << (number % 64);
        let word = match self.words.get_mut((number / 64) as usize) {
            Some(word) if number < self.bound && *word & bit == 0 => word,
            _ => return false,
        };
        *word |= bit;
        self.count += 1;
        true
    }

    /// Adds all members of another set of the same bound.
    ///
    /// # Errors
    /// A number that is in both sets.
    pub fn merge(&mut self, other: &PageSet) -> Result<(), u64> {
        for (index, (word, more)) in self.words.iter_mut().zip(&other.words).enumerate() {
            if *word & more != 0 {
                return Err(index as u64 * 64 + u64::from((*word & more).trailing_zeros()));
            }
            *word |= more;
        }
        self.count += other.count;
        Ok(())
    }

    /// Whether the set has a number.
    pub fn contains(&self, number: u64) -> bool {
        self.words.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }
}
