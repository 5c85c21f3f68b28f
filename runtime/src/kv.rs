//! Pages of keys and values: which sequence holds which page, and the memory behind them.
//!
//! [`Pool`] is bookkeeping alone: sequences, page lists, reference counts; it answers changes with [`Edit`]s for the
//! memory, [`batches`] puts them as kernels carry them out. [`Store`] is the memory. Forks share pages; the partly
//! filled last page is copied when one of its owners is extended. A page's slots behind the last token of its owner hold
//! zeros or were written by an earlier owner of the same page; they are cleared before the page is extended, so nothing
//! that a sequence left behind (a NaN above all) reaches another one. Neither type knows models beyond sizes, runs
//! kernels or drops tokens.

use crate::device::cpu::Region;
use crate::error::{Error, Result};
use crate::model::SeqId;
use ir::program::{GROUP, PAGE, head_blocks, summary_bytes};
use ir::schedule::KvFormat;
use std::collections::{HashMap, HashSet};

/// A change of one page that must happen, in order, before the step that it was made for: the first slots become those of
/// a page, or stay as they are (`from` is `to`), and the slots behind them become zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edit {
    /// The page to read.
    pub from: u32,
    /// The page to write.
    pub to: u32,
    /// Slots to copy or keep.
    pub slots: usize,
}

/// Edits as lists. Within a list no edit writes what another one reads or writes; lists follow each other.
#[must_use]
pub fn batches(edits: &[Edit]) -> Vec<Vec<Edit>> {
    let mut lists = Vec::new();
    let mut list: Vec<Edit> = Vec::new();
    // Which edit of the list writes a page, and which pages are read by the writer of another one.
    let (mut writers, mut read) = (HashMap::new(), HashSet::new());
    for edit in edits {
        let own = edit.from == edit.to;
        if let Some(&writer) = writers.get(&edit.to).filter(|_| own) {
            let before: &mut Edit = &mut list[writer];
            before.slots = before.slots.min(edit.slots);
            continue;
        }
        let clash = read.contains(&edit.to) || writers.contains_key(&edit.to) || writers.contains_key(&edit.from);
        if clash {
            lists.push(std::mem::take(&mut list));
            writers.clear();
            read.clear();
        }
        writers.insert(edit.to, list.len());
        if !own {
            read.insert(edit.from);
        }
        list.push(*edit);
    }
    if !list.is_empty() {
        lists.push(list);
    }
    lists
}

/// A sequence's pages and length.
#[derive(Clone, Debug, Default)]
struct Sequence {
    pages: Vec<u32>,
    len: usize,
}

/// Bookkeeping of pages and sequences.
#[derive(Clone, Debug)]
pub struct Pool {
    /// How many sequences hold each page.
    refs: Vec<u32>,
    /// Slots of each page that may hold something else than zeros.
    high: Vec<u8>,
    /// Free pages; the last is taken next.
    free: Vec<u32>,
    sequences: HashMap<u32, Sequence>,
    next: u32,
}

impl Pool {
    /// A pool of `pages` zeroed pages, all free.
    #[must_use]
    pub fn new(pages: u32) -> Self {
        let count = pages as usize;
        Self {
            refs: vec![0; count],
            high: vec![0; count],
            free: (0..pages).rev().collect(),
            sequences: HashMap::new(),
            next: 0,
        }
    }

    /// Pages held by sequences.
    #[must_use]
    pub fn used(&self) -> usize {
        self.refs.len() - self.free.len()
    }

    /// Pages of the pool.
    #[must_use]
    pub fn total(&self) -> usize {
        self.refs.len()
    }

    /// Tokens of a sequence; 0 for an unknown one.
    #[must_use]
    pub fn len(&self, seq: SeqId) -> usize {
        self.sequences.get(&seq.0).map_or(0, |s| s.len)
    }

    /// True when no sequence exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Pages of a sequence, in order; none for an unknown one.
    #[must_use]
    pub fn pages(&self, seq: SeqId) -> &[u32] {
        self.sequences.get(&seq.0).map_or(&[], |s| &s.pages)
    }

    /// An empty sequence. Numbers are never used twice.
    ///
    /// # Errors
    /// [`Error::Sequence`] after 2³² sequences.
    pub fn create(&mut self) -> Result<SeqId> {
        self.insert(Sequence::default())
    }

    fn insert(&mut self, sequence: Sequence) -> Result<SeqId> {
        let id = self.next;
        let Some(next) = id.checked_add(1) else {
            return Err(Error::Sequence { seq: id, cause: "no numbers are left; load the model again".to_owned() });
        };
        self.next = next;
        self.sequences.insert(id, sequence);
        Ok(SeqId(id))
    }

    fn get(&self, seq: SeqId) -> Result<&Sequence> {
        self.sequences.get(&seq.0).ok_or_else(|| unknown(seq))
    }

    /// A sequence that shares all pages of another.
    ///
    /// # Errors
    /// [`Error::Sequence`] when the sequence is unknown.
    pub fn fork(&mut self, seq: SeqId) -> Result<SeqId> {
        let copy = self.get(seq)?.clone();
        for page in &copy.pages {
            self.refs[*page as usize] += 1;
        }
        self.insert(copy)
    }

    /// A sequence with copies of all pages of another.
    ///
    /// # Errors
    /// [`Error::Sequence`] when the sequence is unknown, [`Error::OutOfPages`]; nothing is changed then.
    pub fn duplicate(&mut self, seq: SeqId, edits: &mut Vec<Edit>) -> Result<SeqId> {
        let source = self.get(seq)?.clone();
        self.check_free(source.pages.len())?;
        let mut pages = Vec::with_capacity(source.pages.len());
        for from in source.pages {
            let to = self.take();
            self.high[to as usize] = self.high[from as usize];
            edits.push(Edit { from, to, slots: PAGE });
            pages.push(to);
        }
        self.insert(Sequence { pages, len: source.len })
    }

    /// Drops the tokens from `len` on; a length at or behind the end changes nothing.
    ///
    /// # Errors
    /// [`Error::Sequence`] when the sequence is unknown.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<()> {
        let sequence = self.sequences.get_mut(&seq.0).ok_or_else(|| unknown(seq))?;
        if len < sequence.len {
            sequence.len = len;
            let dropped = sequence.pages.split_off(len.div_ceil(PAGE));
            self.release(&dropped);
        }
        Ok(())
    }

    /// Gives a sequence and its pages back; an unknown one is ignored.
    pub fn free(&mut self, seq: SeqId) {
        if let Some(sequence) = self.sequences.remove(&seq.0) {
            self.release(&sequence.pages);
        }
    }

    fn release(&mut self, pages: &[u32]) {
        for page in pages.iter().rev() {
            let refs = &mut self.refs[*page as usize];
            *refs -= 1;
            if *refs == 0 {
                self.free.push(*page);
            }
        }
    }

    fn check_free(&self, needed: usize) -> Result<()> {
        if needed > self.free.len() {
            return Err(Error::OutOfPages { needed, free: self.free.len(), total: self.refs.len() });
        }
        Ok(())
    }

    fn take(&mut self) -> u32 {
        let page = self.free.pop().expect("free pages were counted before");
        self.refs[page as usize] = 1;
        page
    }

    /// Makes room for `n` more tokens of each sequence and counts them as its tokens. `edits` receives what must happen
    /// to the memory first.
    ///
    /// # Errors
    /// [`Error::Sequence`] when a sequence is unknown or named twice, [`Error::OutOfPages`]; nothing is changed then.
    pub fn extend(&mut self, asks: &[(SeqId, usize)], edits: &mut Vec<Edit>) -> Result<()> {
        self.check_free(self.pages_needed(asks)?)?;
        for (seq, n) in asks.iter().filter(|(_, n)| *n > 0) {
            // Taken out for the time of the change, so that pages can be taken from the pool.
            let mut sequence = self.sequences.remove(&seq.0).ok_or_else(|| unknown(*seq))?;
            let used = sequence.len % PAGE;
            let last = sequence.pages.last().copied().filter(|_| used > 0);
            if let Some(mut page) = last {
                if self.refs[page as usize] > 1 {
                    let to = self.take();
                    self.refs[page as usize] -= 1;
                    self.high[to as usize] = self.high[page as usize];
                    edits.push(Edit { from: page, to, slots: PAGE });
                    *sequence.pages.last_mut().expect("it has a last page") = to;
                    page = to;
                }
                if usize::from(self.high[page as usize]) > used {
                    edits.push(Edit { from: page, to: page, slots: used });
                }
            }
            let first = sequence.len;
            sequence.len += n;
            while sequence.pages.len() < sequence.len.div_ceil(PAGE) {
                let page = self.take();
                if std::mem::take(&mut self.high[page as usize]) > 0 {
                    edits.push(Edit { from: page, to: page, slots: 0 });
                }
                sequence.pages.push(page);
            }
            self.mark(&sequence, first);
            self.sequences.insert(seq.0, sequence);
        }
        Ok(())
    }

    /// Notes which slots hold tokens, from the page of token `first` on.
    fn mark(&mut self, sequence: &Sequence, first: usize) {
        for (i, page) in sequence.pages.iter().enumerate().skip(first / PAGE) {
            self.high[*page as usize] = (sequence.len - i * PAGE).min(PAGE) as u8;
        }
    }

    /// Pages that [`Pool::extend`] would take, copies of shared last pages included.
    fn pages_needed(&self, asks: &[(SeqId, usize)]) -> Result<usize> {
        let mut seen = HashMap::new();
        let mut leaving: HashMap<u32, u32> = HashMap::new();
        let mut needed = 0;
        for (seq, n) in asks {
            let sequence = self.get(*seq)?;
            if seen.insert(*seq, ()).is_some() {
                let cause = "it is extended twice in one step; give its tokens together".to_owned();
                return Err(Error::Sequence { seq: seq.0, cause });
            }
            if *n == 0 {
                continue;
            }
            let len = sequence.len.checked_add(*n).ok_or_else(|| Error::Sequence {
                seq: seq.0,
                cause: format!("{n} more tokens exceed any memory; shorten the request"),
            })?;
            needed += len.div_ceil(PAGE) - sequence.pages.len();
            if let Some(page) = sequence.pages.last().filter(|_| sequence.len % PAGE > 0) {
                let left = leaving.entry(*page).or_default();
                if self.refs[*page as usize] - *left > 1 {
                    *left += 1;
                    needed += 1;
                }
            }
        }
        Ok(needed)
    }
}

fn unknown(seq: SeqId) -> Error {
    Error::Sequence { seq: seq.0, cause: "it does not exist; it was freed or belongs to another model".to_owned() }
}

/// Sizes of the pages of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageShape {
    /// Layers.
    pub layers: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Dimension of a head.
    pub head_dim: usize,
    /// How elements are kept.
    pub format: KvFormat,
    /// Pages have summaries.
    pub summaries: bool,
    /// Pages of the pool.
    pub pages: usize,
}

impl PageShape {
    /// Bytes of keys (and of values) of one page in one layer.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.kv_heads * self.block_bytes()
    }

    /// Bytes of keys (and of values) of one head on one page.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        usize::try_from(self.format.head_bytes(self.head_dim as u64)).unwrap_or(usize::MAX / 4)
    }

    /// Bytes of the summary of one head on one page.
    fn head_summary_bytes(&self) -> usize {
        if self.summaries { usize::try_from(summary_bytes(self.head_dim as u64)).unwrap_or(usize::MAX / 4) } else { 0 }
    }

    /// Bytes of one page, all layers, summaries included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.layers * self.kv_heads * (2 * self.block_bytes() + self.head_summary_bytes())
    }

    /// Blocks of a head in a group of pages.
    fn head_blocks(&self) -> usize {
        usize::try_from(head_blocks(self.format, self.head_dim as u64, self.summaries)).unwrap_or(usize::MAX / 4)
    }

    /// Blocks of a group of pages.
    fn group_blocks(&self) -> usize {
        let blocks = self.layers.saturating_mul(self.kv_heads).saturating_mul(self.head_blocks());
        blocks.div_ceil(GROUP).saturating_mul(GROUP)
    }

    /// The number by which kernels know a page: its first block.
    #[must_use]
    pub fn number(&self, page: u32) -> usize {
        let page = page as usize;
        page / GROUP * self.group_blocks() + page % GROUP
    }
}

/// The memory of all pages. The system gives it as it is touched.
///
/// Blocks of 16 tokens' keys or values of one head lie as `[group][layer][head][keys, values][page of the group]`, 16 pages
/// a group: memory in use is dense whatever the size of the pool, and a head's keys on pages that follow each other are
/// one run. Behind a head's values lie the summaries of its pages, where there are any. Kernels find them by
/// [`PageShape::number`], as [`ir::program::Buf::Keys`] and [`ir::program::Arg::Summary`] say.
#[derive(Debug)]
pub struct Store {
    shape: PageShape,
    region: Region,
}

impl Store {
    /// Memory for all pages, zeroed; given by the system as it is touched or populated.
    ///
    /// # Errors
    /// [`Error::System`] when the address range is refused, [`Error::Program`] when page numbers exceed 31 bits.
    pub fn new(shape: PageShape) -> Result<Self> {
        let blocks = shape.pages.div_ceil(GROUP).checked_mul(shape.group_blocks());
        let Some(blocks) = blocks.filter(|n| i32::try_from(*n).is_ok()) else {
            let cause = format!("{} pages of {} layers exceed what page tables can name", shape.pages, shape.layers);
            return Err(Error::Program { place: "KV pool".to_owned(), cause });
        };
        let bytes = blocks.saturating_mul(shape.block_bytes());
        Ok(Self { shape, region: Region::new(bytes)? })
    }

    /// How pages lie in memory.
    #[must_use]
    pub fn shape(&self) -> PageShape {
        self.shape
    }

    /// [`Region::populate`] for the first groups of pages, which are used first.
    pub fn populate(&mut self, bytes: usize) {
        self.region.populate(bytes);
    }

    /// Address of the keys (`values` false) or the values of a layer, in page 0.
    #[must_use]
    pub fn address(&self, layer: usize, values: bool) -> u64 {
        let block = layer * self.shape.kv_heads * self.shape.head_blocks() + usize::from(values) * GROUP;
        self.region.address() + (block * self.shape.block_bytes()) as u64
    }

    /// Address of the summaries of a layer, in page 0.
    #[must_use]
    pub fn summary(&self, layer: usize) -> u64 {
        self.address(layer, false) + (2 * GROUP * self.shape.block_bytes()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Action {
        Create,
        Fork(usize),
        Duplicate(usize),
        Extend(Vec<(usize, usize)>),
        Truncate(usize, usize),
        Free(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            1 => Just(Action::Create),
            3 => (0..8_usize).prop_map(Action::Fork),
            1 => (0..8_usize).prop_map(Action::Duplicate),
            6 => prop::collection::vec((0..8_usize, 0..40_usize), 1..5).prop_map(Action::Extend),
            2 => (0..8_usize, 0..100_usize).prop_map(|(s, n)| Action::Truncate(s, n)),
            2 => (0..8_usize).prop_map(Action::Free),
        ]
    }

    /// A pool, the contents of its pages as written by "kernels", and what every sequence should hold.
    struct World {
        pool: Pool,
        slots: Vec<[u32; PAGE]>,
        truth: Vec<(SeqId, Vec<u32>)>,
        clock: u32,
    }

    impl World {
        fn pick(&self, i: usize) -> Option<usize> {
            (!self.truth.is_empty()).then(|| i % self.truth.len())
        }

        /// In order, and as kernels do it: all edits of a list read what was there before any of them wrote.
        fn apply(&mut self, edits: &[Edit]) {
            let mut ordered = self.slots.clone();
            for Edit { from, to, slots } in edits {
                let mut page = ordered[*from as usize];
                page[*slots..].fill(0);
                ordered[*to as usize] = page;
            }
            for list in batches(edits) {
                let before = self.slots.clone();
                for Edit { from, to, slots } in list {
                    let mut page = before[from as usize];
                    page[slots..].fill(0);
                    self.slots[to as usize] = page;
                }
            }
            assert_eq!(ordered, self.slots, "{edits:?}");
        }

        fn act(&mut self, action: &Action) {
            let mut edits = Vec::new();
            match action {
                Action::Create => self.truth.push((self.pool.create().expect("numbers are left"), Vec::new())),
                Action::Fork(i) | Action::Duplicate(i) => {
                    let Some(i) = self.pick(*i) else { return };
                    let (seq, tokens) = self.truth[i].clone();
                    let made = match action {
                        Action::Fork(_) => self.pool.fork(seq),
                        _ => self.pool.duplicate(seq, &mut edits),
                    };
                    if let Ok(made) = made {
                        self.truth.push((made, tokens));
                    }
                    self.apply(&edits);
                }
                Action::Extend(list) => self.extend(list),
                Action::Truncate(i, len) => {
                    let Some(i) = self.pick(*i) else { return };
                    self.pool.truncate(self.truth[i].0, *len).expect("it exists");
                    self.truth[i].1.truncate(*len);
                }
                Action::Free(i) => {
                    let Some(i) = self.pick(*i) else { return };
                    let (seq, _) = self.truth.swap_remove(i);
                    self.pool.free(seq);
                    assert!(self.pool.truncate(seq, 0).is_err());
                }
            }
        }

        fn extend(&mut self, list: &[(usize, usize)]) {
            let mut asks: Vec<(usize, usize)> = Vec::new();
            for (i, n) in list {
                if let Some(i) = self.pick(*i).filter(|i| asks.iter().all(|(j, _)| j != i)) {
                    asks.push((i, *n));
                }
            }
            let wanted: Vec<(SeqId, usize)> = asks.iter().map(|(i, n)| (self.truth[*i].0, *n)).collect();
            let mut edits = Vec::new();
            let before = format!("{:?} {:?}", self.pool.refs, self.pool.free);
            if let Err(error) = self.pool.extend(&wanted, &mut edits) {
                assert!(matches!(error, Error::OutOfPages { needed, free, .. } if needed > free), "{error}");
                assert_eq!(before, format!("{:?} {:?}", self.pool.refs, self.pool.free));
                assert!(edits.is_empty());
                return;
            }
            self.apply(&edits);
            for (i, n) in asks {
                let (seq, tokens) = &mut self.truth[i];
                for _ in 0..n {
                    self.clock += 1;
                    let page = self.pool.pages(*seq)[tokens.len() / PAGE] as usize;
                    assert_eq!(self.pool.refs[page], 1, "only an unshared page is written");
                    let slot = tokens.len() % PAGE;
                    assert!(self.slots[page][slot..].iter().all(|t| *t == 0), "slots behind the end are clear");
                    self.slots[page][slot] = self.clock;
                    tokens.push(self.clock);
                }
            }
        }

        fn check(&self) {
            let mut refs = vec![0; self.pool.total()];
            for (seq, tokens) in &self.truth {
                let pages = self.pool.pages(*seq);
                assert_eq!((self.pool.len(*seq), pages.len()), (tokens.len(), tokens.len().div_ceil(PAGE)));
                let held = pages.iter().flat_map(|p| self.slots[*p as usize]).take(tokens.len());
                assert!(held.eq(tokens.iter().copied()), "a sequence reads back what was appended to it");
                pages.iter().for_each(|p| refs[*p as usize] += 1);
            }
            assert_eq!(refs, self.pool.refs, "references are exact");
            let mut free = self.pool.free.clone();
            free.sort_unstable();
            let unheld: Vec<u32> = (0..).zip(&refs).filter(|(_, r)| **r == 0).map(|(p, _)| p).collect();
            assert_eq!(free, unheld, "every page is held or free");
            for (page, high) in self.pool.high.iter().enumerate() {
                assert!(self.slots[page][usize::from(*high)..].iter().all(|t| *t == 0), "clean above the mark");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_history_reads_back_and_leaks_nothing(actions in prop::collection::vec(action(), 1..60)) {
            let mut world = World { pool: Pool::new(24), slots: vec![[0; PAGE]; 24], truth: Vec::new(), clock: 0 };
            for action in &actions {
                world.act(action);
                world.check();
            }
            for (seq, _) in std::mem::take(&mut world.truth) {
                world.pool.free(seq);
            }
            prop_assert_eq!(world.pool.used(), 0);
        }
    }

    #[test]
    fn twice_in_a_step_and_unknown_are_refused() {
        let mut pool = Pool::new(4);
        let seq = pool.create().expect("numbers are left");
        let mut edits = Vec::new();
        assert!(pool.extend(&[(seq, 1), (seq, 1)], &mut edits).is_err());
        assert!(pool.extend(&[(SeqId(9), 1)], &mut edits).is_err());
        assert!(pool.extend(&[(seq, usize::MAX)], &mut edits).is_err());
        assert_eq!((pool.used(), pool.len(seq)), (0, 0));
    }

    #[test]
    fn lists_hold_no_conflicts() {
        // The last owner of a page clears it in place after others copied it.
        let edit = |from, to, slots| Edit { from, to, slots };
        let edits = [
            edit(1, 5, PAGE),
            edit(5, 5, 9),
            edit(1, 6, PAGE),
            edit(7, 7, 0),
            edit(1, 1, 4),
            edit(2, 2, 3),
            edit(2, 8, PAGE),
        ];
        let first = vec![edit(1, 5, 9), edit(1, 6, PAGE), edit(7, 7, 0)];
        assert_eq!(batches(&edits), [first, vec![edit(1, 1, 4), edit(2, 2, 3)], vec![edit(2, 8, PAGE)]]);
        assert!(batches(&[]).is_empty());
    }

    #[test]
    fn pages_of_a_group_lie_one_after_the_other() {
        for (format, summaries) in
            [(KvFormat::F16, false), (KvFormat::F16, true), (KvFormat::Int8, false), (KvFormat::Int8, true)]
        {
            let shape = PageShape { layers: 2, kv_heads: 3, head_dim: 32, format, summaries, pages: 20 };
            let store = Store::new(shape).expect("memory");
            assert!(
                Store::new(PageShape { pages: 1 << 30, ..shape }).is_err_and(|e| e.to_string().contains("page tables"))
            );
            let block = shape.block_bytes();
            let mut ranges = Vec::new();
            for page in 0..20 {
                let (number, in_group) = (shape.number(page), page as usize % GROUP);
                assert_eq!((number % GROUP, number - in_group), (in_group, shape.number(page / 16 * 16)));
                for (layer, head) in (0..6).map(|i| (i / 3, i % 3)) {
                    let at = |base: u64, number: usize| {
                        (base - store.address(0, false)) as usize + (number + head * shape.head_blocks()) * block
                    };
                    let keys = at(store.address(layer, false), number);
                    let values = at(store.address(layer, true), number);
                    assert_eq!(values - keys, GROUP * block, "values behind keys");
                    ranges.extend([(keys, block), (values, block)]);
                    if in_group == 0 {
                        ranges.push((at(store.summary(layer), number), GROUP * shape.head_summary_bytes()));
                    }
                }
            }
            assert_eq!(ranges[18].0 - ranges[0].0, block, "pages side by side");
            ranges.retain(|r| r.1 > 0);
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0), "no two share memory");
            assert!(ranges.last().is_some_and(|(at, n)| at + n <= store.region.bytes().len()));
        }
    }
}
