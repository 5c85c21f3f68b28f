//! Where comments go, and the lists whose elements they stand between.

use super::Printer;
use super::doc::Doc;
use ir::diagnostic::Span;

/// The brackets of a list and the spaces inside them.
#[derive(Clone, Copy)]
pub(super) struct Brackets {
    /// Opening bracket.
    pub(super) open: &'static str,
    /// Closing bracket.
    pub(super) close: &'static str,
    /// A space inside of the brackets on one line.
    pub(super) spaced: bool,
}

pub(super) const PARENS: Brackets = Brackets { open: "(", close: ")", spaced: false };
pub(super) const SQUARE: Brackets = Brackets { open: "[", close: "]", spaced: false };
pub(super) const BRACES: Brackets = Brackets { open: "{", close: "}", spaced: true };

impl Printer<'_> {
    /// The comments before byte `start`, each on its own line, with the empty lines after them.
    pub(super) fn leading(&mut self, start: u32) -> Doc {
        let mut parts = Vec::new();
        while let Some(comment) = self.take_before(start) {
            parts.push(Doc::comment(comment.0));
            let next = self.comments.get(self.next).map_or(start, |c| c.span.start.min(start));
            parts.push(if self.blank_before(next) { Doc::blank() } else { Doc::hard() });
        }
        Doc::concat(parts)
    }

    /// The place of the first thing printed for an element at `start`: a comment before it, or itself.
    pub(super) fn first_place(&self, start: u32) -> u32 {
        self.comments.get(self.next).map_or(start, |comment| comment.span.start.min(start))
    }

    /// The comment that follows byte `end` on the same line, separators aside.
    pub(super) fn trailing(&mut self, end: u32) -> Doc {
        let Some(comment) = self.comments.get(self.next) else { return Doc::nil() };
        let gap = self.source.get(end as usize..comment.span.start as usize);
        let adjacent = gap.is_some_and(|gap| gap.bytes().all(|b| matches!(b, b' ' | b'\t' | b',' | b';')));
        if !adjacent {
            return Doc::nil();
        }
        self.next += 1;
        Doc::suffix(&comment.text)
    }

    /// The comments before byte `place` that stand in the middle of something: they go to the end of the line.
    pub(super) fn stragglers(&mut self, place: u32) -> Doc {
        let mut parts = Vec::new();
        while let Some(comment) = self.take_before(place) {
            parts.push(Doc::suffix(&comment.0));
        }
        Doc::concat(parts)
    }

    /// The comments before a closing bracket, each on a line of its own; nothing if there are none. `first` says that
    /// nothing stands before them inside of the brackets.
    pub(super) fn dangling(&mut self, close: u32, first: bool) -> Doc {
        let mut parts = Vec::new();
        let mut first = first;
        while let Some((text, start)) = self.take_before(close) {
            if !first {
                parts.push(if self.blank_before(start) { Doc::blank() } else { Doc::hard() });
            }
            parts.push(Doc::comment(text));
            first = false;
        }
        Doc::concat(parts)
    }

    /// Is there a comment before this place that is not printed yet?
    pub(super) fn has_comment_before(&self, place: u32) -> bool {
        self.comments.get(self.next).is_some_and(|comment| comment.span.start < place)
    }

    fn take_before(&mut self, place: u32) -> Option<(String, u32)> {
        let comment = self.comments.get(self.next).filter(|comment| comment.span.start < place)?;
        self.next += 1;
        Some((comment.text.clone(), comment.span.start))
    }

    /// An empty line stands before this place.
    pub(super) fn blank_before(&self, place: u32) -> bool {
        let before = &self.source[..place as usize];
        let gap = &before[before.trim_end_matches([' ', '\t', '\n', '\r']).len()..];
        gap.bytes().filter(|b| *b == b'\n').count() > 1
    }

    /// Elements between brackets: on one line if they fit, else one a line with a comma after the last.
    ///
    /// `close` is the place of the closing bracket, `span` tells where an element stands.
    pub(super) fn list<T>(
        &mut self,
        brackets: Brackets,
        elements: &[T],
        close: u32,
        span: impl Fn(&T) -> Span,
        mut print: impl FnMut(&mut Self, &T) -> Doc,
    ) -> Doc {
        let edge = if brackets.spaced { Doc::line } else { Doc::soft };
        let mut inner = vec![edge()];
        for (index, element) in elements.iter().enumerate() {
            let place = span(element);
            if index > 0 {
                inner.push(Doc::concat(vec![Doc::text(","), Doc::line()]));
            }
            inner.push(self.leading(place.start));
            inner.push(print(self, element));
            inner.push(self.trailing(place.end));
        }
        if !elements.is_empty() {
            inner.push(Doc::if_broken(","));
        }
        if self.has_comment_before(close) {
            inner.push(self.dangling(close, elements.is_empty()));
        } else if elements.is_empty() {
            return Doc::text(format!("{}{}", brackets.open, brackets.close));
        }
        let parts = vec![Doc::text(brackets.open), Doc::nest(Doc::concat(inner)), edge(), Doc::text(brackets.close)];
        Doc::group(Doc::concat(parts))
    }
}
