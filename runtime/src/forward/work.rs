//! What one step has to do, as the tables that kernels read: rows, attention items and page lists.
//!
//! Takes the sequences' new tokens and pages, returns numbers; touches no memory of the model. Cutting attention into
//! items decides speed only: by the contract of [`ir::program`] a row's result is the same bits for every cut.

use crate::kv::PageShape;
use ir::program::{CHUNK, GROUP, ITEM_WORDS, PAGE, ROW_WORDS};
use ir::schedule::Attention;

/// Neighbouring tokens of one sequence in a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run<'a> {
    /// All pages of the sequence, the new tokens' included.
    pub(super) pages: &'a [u32],
    /// Position of the first of the tokens.
    pub(super) first: usize,
    /// Number of tokens, at least one.
    pub(super) rows: usize,
    /// The one token was decoded, the caller says: where that is allowed, it attends to a part of the pages.
    pub(super) decoded: bool,
    /// Whole chunks at its start are attended together with neighbours on the same pages that want it too. For speed only.
    pub(super) together: bool,
}

/// What the cutting may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Rows of an item at most.
    pub(super) attend_rows: usize,
    /// Partials of a step at most; at least the rows of a step.
    pub(super) max_partials: usize,
    /// Threads that share the units.
    pub(super) threads: usize,
    /// How kernels name pages. An item is as many units of work as there are KV heads.
    pub(super) pages: PageShape,
    /// Which pages decoded tokens attend to.
    pub(super) attention: Attention,
}

/// Rows and items of a kind of layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Cut {
    /// [`ROW_WORDS`] per row.
    pub(super) rows: Vec<i64>,
    /// [`ITEM_WORDS`] per item.
    pub(super) items: Vec<i64>,
    /// Partials in use.
    pub(super) partials: usize,
}

/// The tables of a step.
#[derive(Clone, Debug, Default)]
pub(super) struct Work {
    /// For layers that attend to everything.
    pub(super) all: Cut,
    /// For layers that attend to a part; empty where there are none.
    pub(super) part: Cut,
    /// [`ir::program::PICK_WORDS`] per list that a kernel chooses.
    pub(super) picks: Vec<i64>,
    /// Page lists, one after the other.
    pub(super) tables: Vec<i32>,
}

/// A run as attention sees it in a kind of layer.
#[derive(Clone, Copy)]
struct View<'a> {
    run: Run<'a>,
    /// Index of its first page number.
    table: usize,
    /// Distance of the KV heads' lists.
    stride: usize,
    /// Index of how many pages the lists are too short; 0: they are not.
    trims: usize,
}

/// Neighbouring rows that are attended together: over shared chunks `0..shared`, then over their own up to `chunks`.
struct Group {
    first_row: usize,
    rows: usize,
    /// Rows of the largest item of its kind. All items over one prefix must be cut alike, so they count alike.
    width: usize,
    table: usize,
    stride: usize,
    trims: usize,
    start: usize,
    chunks: usize,
}

impl Work {
    /// Fills the tables for a step of `runs`.
    pub(super) fn plan(&mut self, runs: &[Run<'_>], limits: &Limits) {
        self.tables.clear();
        self.picks.clear();
        let mut rows = Vec::new();
        let mut views = Vec::with_capacity(runs.len());
        for run in runs {
            views.push(View { run: *run, table: self.tables.len(), stride: 0, trims: 0 });
            self.tables.extend(run.pages.iter().map(|p| limits.pages.number(*p) as i32));
            for position in run.first..run.first + run.rows {
                let page = limits.pages.number(run.pages[position / PAGE]);
                let slot = page * PAGE + position % PAGE;
                rows.extend([position as i64, slot as i64, position as i64 + 1, 0, 0, 0, 0, 0]);
            }
        }
        let Some(budget) = limits.attention.pages().map(|n| n as usize) else {
            return self.all.plan(rows, &views, limits);
        };
        let mut row = 0;
        let mut limits_of_lists = Vec::new();
        let views_of_lists: Vec<View<'_>> = views
            .iter()
            .map(|view| {
                let first = row;
                row += view.run.rows;
                let pages = view.run.first / PAGE + 1;
                if !view.run.decoded || pages <= budget {
                    return *view;
                }
                // Positions along the list: all its pages but the last are full.
                let position = (budget - 1) * PAGE + view.run.first % PAGE;
                limits_of_lists.push((first, position as i64 + 1));
                let run = Run { pages: &[], first: position, ..view.run };
                let (table, stride, trims) = self.list(first, view, pages, budget, limits);
                View { run, table, stride, trims }
            })
            .collect();
        let mut part_rows = rows.clone();
        for (row, limit) in limits_of_lists {
            part_rows[row * ROW_WORDS + 2] = limit;
        }
        self.all.plan(rows, &views, limits);
        self.part.plan(part_rows, &views_of_lists, limits);
    }

    /// Makes room for the lists of a row with `pages` pages: the index of the first, their distance, and the index of how
    /// many pages they are too short. Lists of a window are the same for all heads and written here.
    fn list(
        &mut self,
        row: usize,
        view: &View<'_>,
        pages: usize,
        budget: usize,
        limits: &Limits,
    ) -> (usize, usize, usize) {
        let list = self.tables.len();
        if let Attention::Window { sinks, .. } = limits.attention {
            let sinks = sinks as usize;
            self.tables.extend_from_within(view.table..view.table + sinks);
            self.tables.extend_from_within(view.table + pages - (budget - sinks)..view.table + pages);
            return (list, 0, 0);
        }
        self.picks.extend([row, view.table, pages, list].map(|w| w as i64));
        let end = list + budget * limits.pages.kv_heads;
        let trims = limits.attention.trims();
        self.tables.resize(end + if trims { limits.pages.kv_heads } else { 0 }, 0);
        (list, budget, if trims { end } else { 0 })
    }

    /// Number of rows.
    pub(super) fn row_count(&self) -> usize {
        self.all.rows.len() / ROW_WORDS
    }
}

impl Cut {
    /// Cuts the attention of rows into items; `rows` has a limit per row and no partials yet.
    fn plan(&mut self, rows: Vec<i64>, views: &[View<'_>], limits: &Limits) {
        self.rows = rows;
        self.items.clear();
        // How many leading chunks each run attends together with its neighbours.
        let mut shared = shared_chunks(views);
        let mut groups = Vec::new();
        let mut prefixes = prefix_groups(views, &shared, limits.attend_rows, &mut groups);
        own_groups(views, &shared, limits.attend_rows, &mut groups);
        if count_partials(&groups, |_| false) > limits.max_partials {
            // Behind a shared prefix every chunk needs a partial of its own; without sharing a row needs only one.
            shared.fill(0);
            groups.clear();
            prefixes = 0;
            own_groups(views, &shared, limits.attend_rows, &mut groups);
        }
        self.cut(&groups, prefixes, limits);
    }

    /// Cuts groups into items and gives every row its partials. The first `prefixes` groups cover chunks `0..chunks`.
    fn cut(&mut self, groups: &[Group], prefixes: usize, limits: &Limits) {
        let cost = |g: &Group| g.width * (g.chunks - g.start);
        let total = limits.pages.kv_heads * groups.iter().map(cost).sum::<usize>();
        // A unit that is more than a quarter of a thread's fair share leaves threads idle: cut it into chunks.
        let coarse = |g: &Group| limits.threads > 1 && 4 * limits.threads * cost(g) > total;
        let fits = count_partials(groups, coarse) <= limits.max_partials;
        // Partials per row and the item list; prefix groups come first, so a row's partials are in chunk order.
        for (i, g) in groups.iter().enumerate() {
            let single = g.start > 0 || (fits && coarse(g));
            let pieces = if single { g.chunks - g.start } else { 1 };
            let which = if i < prefixes { 0 } else { self.rows[g.first_row * ROW_WORDS + 4] };
            for piece in 0..pieces {
                let (from, to) = if single { (g.start + piece, g.start + piece + 1) } else { (0, g.chunks) };
                let words = [g.first_row, g.rows, from, to, g.table].map(|w| w as i64);
                self.items.extend(words);
                self.items.extend([which + piece as i64, g.stride as i64, g.trims as i64]);
            }
            for row in g.first_row..g.first_row + g.rows {
                self.rows[row * ROW_WORDS + 4] += pieces as i64;
            }
        }
        let mut next = 0;
        for row in self.rows.chunks_exact_mut(ROW_WORDS) {
            row[3] = next;
            next += row[4];
        }
        self.partials = next as usize;
    }

    /// Number of items.
    pub(super) fn item_count(&self) -> usize {
        self.items.len() / ITEM_WORDS
    }
}

/// Partials that groups need: one per chunk where a group is cut or lies behind a shared prefix, else one.
fn count_partials(groups: &[Group], cut: impl Fn(&Group) -> bool) -> usize {
    groups.iter().map(|g| if g.start > 0 || cut(g) { g.chunks - g.start } else { 1 } * g.rows).sum()
}

/// For every run, the whole chunks at its start that it attends together with neighbours: 0 or the same number for at
/// least two neighbouring runs.
fn shared_chunks(views: &[View<'_>]) -> Vec<usize> {
    let mut shared = vec![0; views.len()];
    let mut i = 0;
    while i < views.len() {
        let mut chunks = 0;
        let mut end = i + 1;
        while end < views.len() {
            let common = common_chunks(&views[i].run, &views[end].run);
            let next = if end == i + 1 { common } else { chunks.min(common) };
            // A neighbour that shares much less than the others starts a group of its own.
            if next == 0 || 2 * next < chunks {
                break;
            }
            chunks = next;
            end += 1;
        }
        if end > i + 1 {
            shared[i..end].fill(chunks);
        }
        i = end;
    }
    shared
}

/// Whole chunks at the start of both runs that lie on the same pages and that all their rows see; none when one of them
/// attends alone.
fn common_chunks(a: &Run<'_>, b: &Run<'_>) -> usize {
    if !(a.together && b.together) {
        return 0;
    }
    let seen = a.first.min(b.first) + 1;
    let pages = a.pages.iter().zip(b.pages).take(seen / PAGE).take_while(|(a, b)| a == b).count();
    pages / GROUP
}

/// Items over shared prefixes: rows of several runs together. Returns how many groups it added.
fn prefix_groups(views: &[View<'_>], shared: &[usize], most: usize, groups: &mut Vec<Group>) -> usize {
    let (mut i, mut row) = (0, 0);
    while i < views.len() {
        if shared[i] == 0 {
            row += views[i].run.rows;
            i += 1;
            continue;
        }
        // Neighbours with an equal number might be two groups; they are one only while the pages are the same.
        let same = |j: usize| shared[j] == shared[i] && common_chunks(&views[i].run, &views[j].run) >= shared[i];
        let end = (i + 1..views.len()).find(|j| !same(*j)).unwrap_or(views.len());
        let rows: usize = views[i..end].iter().map(|v| v.run.rows).sum();
        let View { table, stride, trims, .. } = views[i];
        let width = rows.min(most);
        split_rows(row, rows, most, |first_row, rows| {
            groups.push(Group { first_row, rows, width, table, stride, trims, start: 0, chunks: shared[i] });
        });
        row += rows;
        i = end;
    }
    groups.len()
}

/// Items over what is not shared: rows of one run.
fn own_groups(views: &[View<'_>], shared: &[usize], most: usize, groups: &mut Vec<Group>) {
    let mut row = 0;
    for (View { run, table, stride, trims }, start) in views.iter().zip(shared) {
        split_rows(row, run.rows, most, |first_row, rows| {
            let limit = run.first + (first_row - row) + rows;
            let chunks = limit.div_ceil(CHUNK);
            if chunks > *start {
                let (table, stride, trims) = (*table, *stride, *trims);
                groups.push(Group { first_row, rows, width: rows, table, stride, trims, start: *start, chunks });
            }
        });
        row += run.rows;
    }
}

fn split_rows(first: usize, rows: usize, most: usize, mut each: impl FnMut(usize, usize)) {
    for start in (0..rows).step_by(most.max(1)) {
        each(first + start, most.max(1).min(rows - start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::schedule::KvFormat;

    fn limits() -> Limits {
        let (format, attention) = (KvFormat::F16, Attention::Dense);
        let pages = PageShape { layers: 3, kv_heads: 2, head_dim: 32, format, summaries: false, pages: 1000 };
        Limits { attend_rows: 4, max_partials: 1000, threads: 2, pages, attention }
    }

    /// Page lists with a common start of `common` pages.
    fn lists(common: u32, lens: &[usize]) -> Vec<Vec<u32>> {
        let mut next = common;
        let mut page = |i: u32| {
            next += u32::from(i >= common);
            if i < common { i } else { next }
        };
        lens.iter().map(|len| (0..len.div_ceil(PAGE) as u32).map(&mut page).collect()).collect()
    }

    /// Every (row, chunk it can see) is covered exactly once, by pages of its own sequence, partial 0 starts at chunk 0,
    /// the others cover one chunk each, and no two partials share a place.
    fn check(runs: &[Run<'_>], work: &Work, limits: &Limits) {
        let (tables, work) = (&work.tables, &work.all);
        let owner: Vec<(&Run<'_>, usize)> =
            runs.iter().flat_map(|r| (0..r.rows).map(move |i| (r, r.first + i))).collect();
        assert_eq!(work.rows.len(), owner.len() * ROW_WORDS);
        let mut covered = vec![Vec::new(); owner.len()];
        for item in work.items.chunks_exact(ITEM_WORDS) {
            let [first, rows, from, to, table, which] = [0, 1, 2, 3, 4, 5].map(|i| item[i] as usize);
            assert!(rows >= 1 && rows <= limits.attend_rows && from < to);
            assert!(if which == 0 { from == 0 } else { to == from + 1 });
            for row in first..first + rows {
                let (run, position) = owner[row];
                let keys = (to * CHUNK).min(position + 1);
                for page in from * GROUP..keys.div_ceil(PAGE) {
                    assert_eq!(
                        tables[table + page],
                        limits.pages.number(run.pages[page]) as i32,
                        "row {row} reads its own pages"
                    );
                }
                covered[row].push((which, from, to));
            }
        }
        let mut places = 0;
        for (row, ((run, position), mut parts)) in owner.into_iter().zip(covered).enumerate() {
            let words = &work.rows[row * ROW_WORDS..][..ROW_WORDS];
            let slot = limits.pages.number(run.pages[position / PAGE]) * PAGE + position % PAGE;
            assert_eq!(words[..5], [position as i64, slot as i64, position as i64 + 1, places, parts.len() as i64]);
            parts.sort_unstable();
            let mut next = 0;
            for (i, (which, from, to)) in parts.iter().enumerate() {
                assert_eq!((*which, *from), (i, next), "row {row}: partials in chunk order, none missing");
                next = *to;
            }
            assert!(next >= (position + 1).div_ceil(CHUNK));
            places += parts.len() as i64;
        }
        assert_eq!(places as usize, work.partials);
        assert!(work.partials <= limits.max_partials);
    }

    #[test]
    fn every_cut_covers_every_key_once() {
        let cases: &[(u32, &[(usize, usize)])] = &[
            (0, &[(0, 1)]),
            (0, &[(0, 9)]),
            (0, &[(255, 1), (256, 1), (3000, 1)]),
            (0, &[(500, 37)]),
            (32, &[(512, 1), (513, 1), (600, 1), (1000, 2), (511, 1)]),
            (32, &[(512, 1); 11]),
            (40, &[(700, 3), (2000, 1), (640, 1)]),
            (16, &[(256, 1), (255, 1), (254, 1)]),
            (160, &[(2600, 1), (2600, 1), (300, 1), (300, 6), (2600, 1)]),
        ];
        for (common, shape) in cases {
            let pages = lists(*common, &shape.iter().map(|(first, rows)| first + rows).collect::<Vec<_>>());
            // Nobody attends together, everybody, some of them.
            for mask in [0, u32::MAX, 0b1011_0110_1101_u32] {
                let runs: Vec<Run<'_>> = shape
                    .iter()
                    .zip(&pages)
                    .enumerate()
                    .map(|(i, ((first, rows), pages))| {
                        let (first, rows, together) = (*first, *rows, mask >> i & 1 == 1);
                        Run { pages, first, rows, decoded: rows == 1, together }
                    })
                    .collect();
                for max_partials in [shape.iter().map(|s| s.1).sum(), 30, 1000] {
                    for threads in [1, 2, 64] {
                        let limits = Limits { max_partials, threads, ..limits() };
                        if max_partials >= shape.iter().map(|s| s.1).sum() {
                            let mut work = Work::default();
                            work.plan(&runs, &limits);
                            check(&runs, &work, &limits);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn cascade_reads_a_shared_prefix_once() {
        let pages = lists(32, &[530; 8]);
        let shared = |runs: &[Run<'_>]| {
            let mut work = Work::default();
            work.plan(runs, &Limits { threads: 1, attend_rows: 8, ..limits() });
            let prefix: Vec<_> =
                work.all.items.chunks_exact(ITEM_WORDS).filter(|i| i[2] == 0).map(|i| i[..4].to_vec()).collect();
            (prefix, work.all.item_count())
        };
        let run = |pages, together| Run { pages, first: 529, rows: 1, decoded: true, together };
        let all: Vec<Run<'_>> = pages.iter().map(|pages| run(pages, true)).collect();
        assert_eq!(shared(&all), (vec![vec![0, 8, 0, 2]], 1 + 8));
        // Who does not want it stays alone, and the others do not wait for it.
        let most: Vec<Run<'_>> = pages.iter().enumerate().map(|(i, pages)| run(pages, i < 5)).collect();
        let (prefix, items) = shared(&most);
        assert_eq!(prefix, [vec![0, 5, 0, 2], vec![5, 1, 0, 3], vec![6, 1, 0, 3], vec![7, 1, 0, 3]]);
        assert_eq!(items, 1 + 5 + 3);
    }

    #[test]
    fn decoded_rows_of_long_sequences_get_lists() {
        let pages = lists(0, &[700, 90, 700, 701]);
        let run = |i: usize, first: usize, rows: usize, decoded| Run {
            pages: &pages[i],
            first,
            rows,
            decoded,
            together: false,
        };
        // Long and decoded; short; a prompt; the last token of a prompt that was cut into steps.
        let runs = [run(0, 699, 1, true), run(1, 89, 1, true), run(2, 690, 10, false), run(3, 700, 1, false)];
        let sparse = Attention::Sparse { pages: 20, sinks: 1, window: 4, dense_layers: 1, top_p: 1000 };
        for (attention, stride) in
            [(sparse, 20), (sparse.trimmed(900), 20), (Attention::Window { sinks: 2, window: 18, dense_layers: 0 }, 0)]
        {
            let limits = Limits { attention, ..limits() };
            let mut work = Work::default();
            work.plan(&runs, &limits);
            check(&runs, &work, &limits);
            let numbers: usize = pages.iter().map(Vec::len).sum();
            let lists: Vec<_> = work.part.items.chunks_exact(ITEM_WORDS).filter(|i| i[0] == 0).collect();
            assert_eq!(lists.iter().flat_map(|i| i[2]..i[3]).collect::<Vec<_>>(), [0, 1], "chunks of 320 positions");
            let trims = if attention.trims() { (numbers + 40) as i64 } else { 0 };
            assert!(lists.iter().all(|i| (i[4], i[6], i[7]) == (numbers as i64, stride, trims)));
            assert_eq!(work.part.rows[..3], [699, work.all.rows[1], 19 * 16 + 12], "the limit is the list's");
            assert_eq!(work.part.rows[ROW_WORDS..][..3], work.all.rows[ROW_WORDS..][..3]);
            assert_eq!(work.part.rows[12 * ROW_WORDS..][..3], work.all.rows[12 * ROW_WORDS..][..3]);
            if stride == 0 {
                let want: Vec<i32> = (0..2).chain(26..44).map(|i| limits.pages.number(pages[0][i]) as i32).collect();
                assert_eq!((&work.tables[numbers..], &work.picks[..]), (&want[..], &[][..]));
            } else {
                let all = numbers + 40 + if attention.trims() { 2 } else { 0 };
                assert_eq!((work.tables.len(), &work.picks[..]), (all, &[0, 0, 44, numbers as i64][..]));
            }
        }
    }
}
