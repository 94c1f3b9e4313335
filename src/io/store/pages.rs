//! Checks the structure of an LMDB file before LMDB maps it.
//!
//! LMDB follows page numbers, offsets and lengths in its file without a doubt: a damaged file is a
//! crash of the process or a wrong answer, not an error. This walks the three kinds of trees (free
//! list, table of tables, tables) as LMDB's `mdb.c` lays them out, within bounds, and checks what
//! lookups and page reuse rely on: order of keys against branch keys, depth, counts, no page twice,
//! no used page on the free list. Contents are checked by the records' own checksums.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// Bytes of a page number and of sizes.
const WORD: usize = size_of::<usize>();
const PAGE_HEADER: usize = WORD + 8;
const NODE_HEADER: usize = 8;
const TREE_BYTES: usize = 8 + 5 * WORD;
const META_MAGIC: u32 = 0xBEEF_C0DE;
const META_VERSION: u32 = 1;
const NO_PAGE: u64 = if WORD == 8 { u64::MAX } else { u32::MAX as u64 };

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;
const BIG_DATA: u16 = 0x01;
const SUB_DATA: u16 = 0x02;

/// Deeper trees than any file of the map's size has.
const DEPTH_MAX: u16 = 24;

type Checked<T> = Result<T, &'static str>;

/// Sees flags and data of each entry of a tree.
type Visit<'f, 'v> = dyn FnMut(&mut Walk<'f>, u16, &[u8]) -> Checked<()> + 'v;

/// Whether LMDB can trust the file, or what is wrong with it.
///
/// # Errors
/// When the file cannot be read.
pub(super) fn check(path: &Path) -> io::Result<Checked<()>> {
    let file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    if file_bytes == 0 {
        return Ok(Ok(()));
    }
    let mut failure = None;
    let checked = Walk::new(&file, file_bytes, &mut failure).and_then(|mut walk| walk.all());
    match failure {
        Some(error) => Err(error),
        None => Ok(checked),
    }
}

/// A tree's root and what it claims about itself.
#[derive(Clone, Copy)]
struct Tree {
    flags: u16,
    depth: u16,
    entries: u64,
    root: u64,
}

/// How keys of a tree compare.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Bytes,
    Integer,
}

struct Walk<'f> {
    file: &'f File,
    failure: &'f mut Option<io::Error>,
    page_bytes: usize,
    /// Pages that exist in the file and below the end that the newest meta page names.
    pages: u64,
    last_page: u64,
    free: Tree,
    main: Tree,
    used: Vec<u8>,
    named: Vec<Tree>,
}

/// One tree's walk.
struct Progress {
    order: Order,
    entries: u64,
    /// The last key seen, and the branch key that the next one must not be below.
    last: Option<Vec<u8>>,
    at_least: Option<Vec<u8>>,
}

fn word(bytes: &[u8], at: usize) -> Checked<u64> {
    let raw = bytes.get(at..at + WORD).ok_or("a number is cut off")?;
    Ok(raw.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

fn half(bytes: &[u8], at: usize) -> Checked<u16> {
    let raw = bytes.get(at..at + 2).ok_or("a number is cut off")?;
    Ok(u16::from_le_bytes([raw[0], raw[1]]))
}

fn quad(bytes: &[u8], at: usize) -> Checked<u32> {
    Ok(u32::from(half(bytes, at)?) | u32::from(half(bytes, at + 2)?) << 16)
}

impl Tree {
    fn read(bytes: &[u8]) -> Checked<Self> {
        Ok(Self {
            flags: half(bytes, 4)?,
            depth: half(bytes, 6)?,
            entries: word(bytes, 8 + 3 * WORD)?,
            root: word(bytes, 8 + 4 * WORD)?,
        })
    }
}

struct Meta {
    page_bytes: usize,
    free: Tree,
    main: Tree,
    last_page: u64,
    transaction: u64,
}

impl Meta {
    fn read(page: &[u8]) -> Checked<Self> {
        let body = page.get(PAGE_HEADER..).ok_or("a meta page is cut off")?;
        if half(page, WORD + 2)? != META {
            return Err("a meta page is not marked as one");
        }
        if quad(body, 0)? != META_MAGIC || quad(body, 4)? != META_VERSION {
            return Err("a meta page has another magic or version");
        }
        let trees = 8 + 2 * WORD;
        let after = trees + 2 * TREE_BYTES;
        Ok(Self {
            page_bytes: usize::try_from(quad(body, trees)?).map_err(|_| "a page size is odd")?,
            free: Tree::read(&body[trees..])?,
            main: Tree::read(&body[trees + TREE_BYTES..])?,
            last_page: word(body, after)?,
            transaction: word(body, after + WORD)?,
        })
    }
}

impl<'f> Walk<'f> {
    fn new(file: &'f File, file_bytes: u64, failure: &'f mut Option<io::Error>) -> Checked<Self> {
        let mut head = vec![0; 512];
        read_at(file, &mut head, 0, failure)?;
        let first = Meta::read(&head)?;
        let page_bytes = first.page_bytes;
        if !page_bytes.is_power_of_two() || !(512..=65536).contains(&page_bytes) {
            return Err("the page size is not one");
        }
        read_at(file, &mut head, page_bytes as u64, failure)?;
        let second = Meta::read(&head)?;
        if second.page_bytes != page_bytes {
            return Err("the meta pages disagree");
        }
        let newest = if second.transaction > first.transaction { second } else { first };
        let in_file = file_bytes / page_bytes as u64;
        let pages = in_file.min(newest.last_page.saturating_add(1));
        let used = vec![0; usize::try_from(pages / 8 + 1).map_err(|_| "the file is too large")?];
        let Meta { free, main, last_page, .. } = newest;
        let named = Vec::new();
        Ok(Self { file, failure, page_bytes, pages, last_page, free, main, used, named })
    }

    fn all(&mut self) -> Checked<()> {
        let mut free_pages = Vec::new();
        let (free, main) = (self.free, self.main);
        self.tree(free, Order::Integer, &mut |walk, node_flags, data| {
            walk.free_list(node_flags, data, &mut free_pages)
        })?;
        self.tree(main, Order::Bytes, &mut |walk, node_flags, data| {
            if node_flags != SUB_DATA || data.len() != TREE_BYTES {
                return Err("the table of tables holds something else");
            }
            walk.named.push(Tree::read(data)?);
            Ok(())
        })?;
        for tree in std::mem::take(&mut self.named) {
            self.tree(tree, Order::Bytes, &mut |_, node_flags, _| {
                (node_flags == 0).then_some(()).ok_or("a table holds something else than records")
            })?;
        }
        free_pages.sort_unstable();
        let doubled = free_pages.windows(2).any(|pair| pair[0] == pair[1]);
        let in_use = free_pages.iter().any(|page| *page < self.pages && self.is_used(*page));
        if doubled || in_use { Err("a free page is in use") } else { Ok(()) }
    }

    /// A record of the free list: a count, then page numbers.
    fn free_list(&self, flags: u16, data: &[u8], free: &mut Vec<u64>) -> Checked<()> {
        let count = word(data, 0)?;
        let room = data.len() / WORD;
        let count = usize::try_from(count).map_err(|_| "a free list is too long")?;
        if flags != 0 || count >= room {
            return Err("a free list is longer than its record");
        }
        for nth in 1..=count {
            let page = word(data, nth * WORD)?;
            if page < 2 || page > self.last_page {
                return Err("a free page is outside of the file");
            }
            free.push(page);
        }
        Ok(())
    }

    fn tree(&mut self, tree: Tree, order: Order, visit: &mut Visit<'f, '_>) -> Checked<()> {
        // 0x08 is MDB_INTEGERKEY; of the rest none is ours.
        let flags_fit = match order {
            Order::Integer => tree.flags & !0x08 == 0 || tree.flags & 0x08 != 0,
            Order::Bytes => tree.flags & 0xfff == 0,
        };
        if tree.root == NO_PAGE {
            let empty = tree.depth == 0 && tree.entries == 0;
            return empty.then_some(()).ok_or("an empty tree claims to hold something");
        }
        if tree.depth == 0 || tree.depth > DEPTH_MAX || !flags_fit {
            return Err("a tree's description is impossible");
        }
        let mut progress = Progress { order, entries: 0, last: None, at_least: None };
        self.page(tree.root, tree.depth, &mut progress, visit)?;
        (progress.entries == tree.entries).then_some(()).ok_or("a tree has lost entries")
    }

    fn page(
        &mut self,
        number: u64,
        depth: u16,
        progress: &mut Progress,
        visit: &mut Visit<'f, '_>,
    ) -> Checked<()> {
        let page = self.read_page(number)?;
        let wanted = if depth == 1 { LEAF } else { BRANCH };
        if half(&page, WORD + 2)? != wanted {
            return Err("a page is of the wrong kind");
        }
        let lower = usize::from(half(&page, WORD + 4)?);
        let upper = usize::from(half(&page, WORD + 6)?);
        if lower < PAGE_HEADER || lower > upper || upper > self.page_bytes {
            return Err("a page's free space is impossible");
        }
        let count = (lower - PAGE_HEADER) / 2;
        if count == 0 || (depth > 1 && count < 2) {
            return Err("a page has too few entries");
        }
        for nth in 0..count {
            let at = usize::from(half(&page, PAGE_HEADER + 2 * nth)?);
            if at < upper {
                return Err("an entry lies in free space");
            }
            let node = page.get(at..).ok_or("an entry is outside of its page")?;
            if depth > 1 {
                self.branch(node, nth, depth, progress, visit)?;
            } else {
                self.leaf(node, progress, visit)?;
            }
        }
        Ok(())
    }

    fn branch(
        &mut self,
        node: &[u8],
        nth: usize,
        depth: u16,
        progress: &mut Progress,
        visit: &mut Visit<'f, '_>,
    ) -> Checked<()> {
        let mut child = u64::from(quad(node, 0)?);
        if WORD == 8 {
            child |= u64::from(half(node, 4)?) << 32;
        }
        if nth > 0 {
            let key = key_of(node)?;
            progress.must_rise(key)?;
            progress.at_least = Some(key.to_vec());
        }
        self.page(child, depth - 1, progress, visit)
    }

    fn leaf(
        &mut self,
        node: &[u8],
        progress: &mut Progress,
        visit: &mut Visit<'f, '_>,
    ) -> Checked<()> {
        let key = key_of(node)?;
        progress.must_rise(key)?;
        if progress.at_least.take().is_some_and(|least| progress.below(key, &least)) {
            return Err("a key is below its branch");
        }
        progress.last = Some(key.to_vec());
        progress.entries += 1;
        let data_bytes = usize::try_from(quad(node, 0)?).map_err(|_| "a record is too long")?;
        let flags = half(node, 4)?;
        let data = &node[NODE_HEADER + key.len()..];
        if flags & BIG_DATA == 0 {
            let data = data.get(..data_bytes).ok_or("a record is outside of its page")?;
            return visit(self, flags, data);
        }
        let data = self.overflow(word(data, 0)?, data_bytes)?;
        visit(self, flags & !BIG_DATA, &data)
    }

    /// The data of a record that has pages of its own.
    fn overflow(&mut self, number: u64, data_bytes: usize) -> Checked<Vec<u8>> {
        let first = self.read_page(number)?;
        let count = u64::from(quad(&first, WORD + 4)?);
        let room = count.checked_mul(self.page_bytes as u64).ok_or("a record is too long")?;
        let fits = (PAGE_HEADER as u64 + data_bytes as u64) <= room;
        let inside = number.checked_add(count).is_some_and(|end| end <= self.pages);
        if half(&first, WORD + 2)? != OVERFLOW || !fits || !inside {
            return Err("the pages of a long record are impossible");
        }
        for page in number + 1..number + count {
            self.mark(page)?;
        }
        let mut data = vec![0; data_bytes];
        let offset = number * self.page_bytes as u64 + PAGE_HEADER as u64;
        read_at(self.file, &mut data, offset, self.failure)?;
        Ok(data)
    }

    fn read_page(&mut self, number: u64) -> Checked<Vec<u8>> {
        self.mark(number)?;
        let mut page = vec![0; self.page_bytes];
        read_at(self.file, &mut page, number * self.page_bytes as u64, self.failure)?;
        (word(&page, 0)? == number).then_some(page).ok_or("a page is not where it says")
    }

    fn mark(&mut self, number: u64) -> Checked<()> {
        if number < 2 || number >= self.pages {
            return Err("a page is outside of the file");
        }
        if self.is_used(number) {
            return Err("a page is used twice");
        }
        let at = usize::try_from(number / 8).map_err(|_| "the file is too large")?;
        self.used[at] |= 1 << (number % 8);
        Ok(())
    }

    fn is_used(&self, number: u64) -> bool {
        let byte = usize::try_from(number / 8).ok().and_then(|at| self.used.get(at));
        byte.is_some_and(|byte| byte & 1 << (number % 8) != 0)
    }
}

impl Progress {
    fn below(&self, left: &[u8], right: &[u8]) -> bool {
        match self.order {
            Order::Bytes => left < right,
            Order::Integer => left.iter().rev().lt(right.iter().rev()),
        }
    }

    fn must_rise(&self, key: &[u8]) -> Checked<()> {
        let rises = self.last.as_ref().is_none_or(|last| self.below(last, key));
        rises.then_some(()).ok_or("keys are out of order")
    }
}

fn key_of(node: &[u8]) -> Checked<&[u8]> {
    let bytes = usize::from(half(node, 6)?);
    node.get(NODE_HEADER..NODE_HEADER + bytes).ok_or("a key is outside of its page")
}

fn read_at(
    file: &File,
    bytes: &mut [u8],
    offset: u64,
    failure: &mut Option<io::Error>,
) -> Checked<()> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err("the file is cut off"),
        Err(error) => {
            *failure = Some(error);
            Err("the file cannot be read")
        }
    }
}
