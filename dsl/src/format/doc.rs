//! Documents: text with places where a line may break, and their layout in 100 columns.
//!
//! A group is printed on one line if it fits and nothing in it demands a break. Comments at the end of a line wait for
//! the next break, so that separators printed after them still stand before them. Knows nothing of the language.

/// Columns of a line.
const WIDTH: usize = 100;
/// Columns of one level of indentation.
const INDENT: usize = 4;

/// A document with the measures that its layout needs.
#[derive(Clone, Debug)]
pub(super) struct Doc {
    kind: Kind,
    /// It contains a demanded break.
    forced: bool,
    /// Width on one line.
    flat: usize,
    /// Width up to the first place where a line may break.
    lead: usize,
    /// It has such a place.
    breaks: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Text(String),
    /// A break, or this text on one line.
    Line(&'static str),
    Hard,
    /// A demanded empty line.
    Blank,
    /// A break inside a string: comments do not go there.
    StringLine,
    Concat(Vec<Doc>),
    Nest(Box<Doc>),
    Group(Box<Doc>),
    /// A comment for the end of the line.
    Suffix(String),
    /// Printed only where the enclosing group is broken.
    IfBroken(&'static str),
}

impl Doc {
    fn leaf(kind: Kind, forced: bool, flat: usize, breaks: bool) -> Self {
        let lead = if breaks { 0 } else { flat };
        Self { kind, forced, flat, lead, breaks }
    }

    /// Nothing.
    pub(super) fn nil() -> Self {
        Self::concat(Vec::new())
    }

    /// Text without line breaks.
    pub(super) fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        let width = text.chars().count();
        Self::leaf(Kind::Text(text), false, width, false)
    }

    /// A comment on a line of its own.
    pub(super) fn comment(text: String) -> Self {
        Self { forced: true, ..Self::text(text) }
    }

    /// A space or a break.
    pub(super) fn line() -> Self {
        Self::leaf(Kind::Line(" "), false, 1, true)
    }

    /// Nothing or a break.
    pub(super) fn soft() -> Self {
        Self::leaf(Kind::Line(""), false, 0, true)
    }

    /// A break in any case; a space in [`Self::flat_text`].
    pub(super) fn hard() -> Self {
        Self::leaf(Kind::Hard, true, 1, true)
    }

    /// A break and an empty line.
    pub(super) fn blank() -> Self {
        Self::leaf(Kind::Blank, true, 1, true)
    }

    /// A break inside a string.
    pub(super) fn string_line() -> Self {
        Self::leaf(Kind::StringLine, true, 1, true)
    }

    /// A comment that goes to the end of the line.
    pub(super) fn suffix(comment: &str) -> Self {
        Self::leaf(Kind::Suffix(comment.to_owned()), true, 0, false)
    }

    /// Text for broken groups.
    pub(super) fn if_broken(text: &'static str) -> Self {
        Self::leaf(Kind::IfBroken(text), false, 0, false)
    }

    /// One after the other.
    pub(super) fn concat(parts: Vec<Doc>) -> Self {
        let forced = parts.iter().any(|part| part.forced);
        let flat = parts.iter().map(|part| part.flat).sum();
        let breaks = parts.iter().any(|part| part.breaks);
        let until = parts.iter().position(|part| part.breaks).map_or(parts.len(), |at| at + 1);
        let lead = parts[..until].iter().map(|part| part.lead).sum();
        Self { kind: Kind::Concat(parts), forced, flat, lead, breaks }
    }

    /// One level deeper.
    pub(super) fn nest(inner: Doc) -> Self {
        Self {
            forced: inner.forced,
            flat: inner.flat,
            lead: inner.lead,
            breaks: inner.breaks,
            kind: Kind::Nest(inner.into()),
        }
    }

    /// On one line if it fits.
    pub(super) fn group(inner: Doc) -> Self {
        Self {
            forced: inner.forced,
            flat: inner.flat,
            lead: inner.lead,
            breaks: inner.breaks,
            kind: Kind::Group(inner.into()),
        }
    }

    /// It demands a break.
    pub(super) fn is_forced(&self) -> bool {
        self.forced
    }

    /// All on one line, whatever its width; for holes of strings, which have no comments and no raw strings.
    pub(super) fn flat_text(&self) -> String {
        let mut out = String::new();
        self.flat_into(&mut out);
        out
    }

    fn flat_into(&self, out: &mut String) {
        match &self.kind {
            Kind::Text(text) => out.push_str(text),
            Kind::Line(text) => out.push_str(text),
            Kind::Hard | Kind::Blank | Kind::StringLine => out.push(' '),
            Kind::Concat(parts) => parts.iter().for_each(|part| part.flat_into(out)),
            Kind::Nest(inner) | Kind::Group(inner) => inner.flat_into(out),
            Kind::Suffix(_) | Kind::IfBroken(_) => {}
        }
    }

    /// Lays the document out; ends with one line break unless empty.
    pub(super) fn render(&self) -> String {
        let mut page = Page { out: String::new(), column: 0, suffixes: Vec::new(), fresh: true };
        page.print(self, 0, false, 0);
        if !page.out.is_empty() || !page.suffixes.is_empty() {
            page.newline(0);
        }
        page.out
    }
}

struct Page {
    out: String,
    column: usize,
    /// Comments that wait for the end of the line.
    suffixes: Vec<String>,
    /// Nothing stands on the line yet.
    fresh: bool,
}

impl Page {
    /// Prints at `indent` levels; `after` is the width of what must follow on the last line.
    fn print(&mut self, doc: &Doc, indent: usize, flat: bool, after: usize) {
        match &doc.kind {
            Kind::Text(text) => self.text(text, indent),
            Kind::Line(text) if flat => self.text(text, indent),
            Kind::Line(_) | Kind::Hard => self.newline(indent),
            Kind::Blank => {
                self.newline(indent);
                self.out.push('\n');
            }
            Kind::StringLine => self.break_line(),
            Kind::Concat(parts) => self.concat(parts, indent, flat, after),
            Kind::Nest(inner) => self.print(inner, indent + 1, flat, after),
            Kind::Group(inner) => {
                let at = if self.fresh { indent * INDENT } else { self.column };
                let fits = !inner.forced && at + inner.flat + after <= WIDTH;
                self.print(inner, indent, flat || fits, after);
            }
            Kind::Suffix(comment) => self.suffixes.push(comment.clone()),
            Kind::IfBroken(_) if flat => {}
            Kind::IfBroken(text) => self.text(text, indent),
        }
    }

    fn concat(&mut self, parts: &[Doc], indent: usize, flat: bool, after: usize) {
        // What follows each part up to the next place where the line may break, from the right.
        let mut follows = vec![after; parts.len()];
        for at in (1..parts.len()).rev() {
            let part = &parts[at];
            follows[at - 1] = if part.breaks && !flat { part.lead } else { part.lead + follows[at] };
        }
        for (part, follow) in parts.iter().zip(follows) {
            self.print(part, indent, flat, follow);
        }
    }

    fn text(&mut self, text: &str, indent: usize) {
        if text.is_empty() {
            return;
        }
        if self.fresh {
            self.column = indent * INDENT;
            self.out.extend(std::iter::repeat_n(' ', self.column));
            self.fresh = false;
        }
        self.out.push_str(text);
        self.column += text.chars().count();
    }

    /// Ends the line with the comments that wait for it.
    fn newline(&mut self, indent: usize) {
        for (index, comment) in std::mem::take(&mut self.suffixes).into_iter().enumerate() {
            if index > 0 {
                self.break_line();
            }
            if !self.fresh {
                self.text(" ", indent);
            }
            self.text(&comment, indent);
        }
        self.break_line();
    }

    fn break_line(&mut self) {
        self.out.push('\n');
        self.column = 0;
        self.fresh = true;
    }
}

#[cfg(test)]
mod tests {
    use super::Doc;

    fn call(args: &[&str]) -> Doc {
        let mut inner = vec![Doc::soft()];
        for (index, arg) in args.iter().enumerate() {
            if index > 0 {
                inner.push(Doc::concat(vec![Doc::text(","), Doc::line()]));
            }
            inner.push(Doc::text(*arg));
        }
        inner.push(Doc::if_broken(","));
        Doc::group(Doc::concat(vec![Doc::text("f("), Doc::nest(Doc::concat(inner)), Doc::soft(), Doc::text(")")]))
    }

    #[test]
    fn groups_break_only_where_they_do_not_fit() {
        assert_eq!(call(&["a", "b"]).render(), "f(a, b)\n");
        let long = "x".repeat(60);
        assert_eq!(call(&[&long, &long]).render(), format!("f(\n    {long},\n    {long},\n)\n"));
    }

    #[test]
    fn what_follows_a_group_counts() {
        let exact = "x".repeat(97);
        assert_eq!(call(&[&exact]).render().lines().count(), 1);
        let followed = Doc::concat(vec![call(&[&exact]), Doc::text(";")]);
        assert_eq!(followed.render().lines().count(), 3);
    }

    #[test]
    fn comments_wait_for_the_end_of_the_line() {
        let doc = Doc::concat(vec![Doc::text("a"), Doc::suffix("// c"), Doc::text(";"), Doc::hard(), Doc::text("b")]);
        assert_eq!(doc.render(), "a; // c\nb\n");
    }
}
