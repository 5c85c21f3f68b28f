//! What a run measured, by site: numbers only, in the order of sites. Reports print them and compute nothing.

/// Measurements of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// One entry per site of the strategy (index = site).
    pub sites: Vec<SiteMetrics>,
}

/// Measurements of a site, summed over all times it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SiteMetrics {
    /// Times it ran.
    pub runs: u64,
    /// Prompt tokens computed.
    pub prompt_tokens: u64,
    /// Prompt tokens that were cached already.
    pub reused_tokens: u64,
    /// Seconds spent on prompts.
    pub prefill_seconds: f64,
    /// Decode steps.
    pub steps: u64,
    /// Rows of all decode steps: tokens decided in them.
    pub rows: u64,
    /// Seconds of decode steps, sampling included.
    pub decode_seconds: f64,
    /// Sequences started.
    pub sequences: u64,
    /// Scores, choices, expectations, log-probabilities.
    pub scores: u64,
    /// Seconds of those.
    pub score_seconds: f64,
}

impl Metrics {
    /// Measurements of `sites` sites, all zero.
    #[must_use]
    pub fn new(sites: usize) -> Self {
        Self { sites: vec![SiteMetrics::default(); sites] }
    }

    fn site(&mut self, site: u32) -> &mut SiteMetrics {
        let at = site as usize;
        if at >= self.sites.len() {
            self.sites.resize(at + 1, SiteMetrics::default());
        }
        &mut self.sites[at]
    }

    /// A prompt was computed.
    pub(crate) fn prefill(&mut self, site: u32, tokens: usize, reused: usize, seconds: f64) {
        let site = self.site(site);
        site.runs += 1;
        site.prompt_tokens += tokens as u64;
        site.reused_tokens += reused as u64;
        site.prefill_seconds += seconds;
    }

    /// A decode step was done.
    pub(crate) fn step(&mut self, site: u32, rows: usize, seconds: f64) {
        let site = self.site(site);
        site.steps += 1;
        site.rows += rows as u64;
        site.decode_seconds += seconds;
    }

    /// Sequences started.
    pub(crate) fn sequences(&mut self, site: u32, count: u64) {
        self.site(site).sequences += count;
    }

    /// A score was taken.
    pub(crate) fn score(&mut self, site: u32, seconds: f64) {
        let site = self.site(site);
        site.scores += 1;
        site.score_seconds += seconds;
    }
}
