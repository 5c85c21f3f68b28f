//! The codes of syntax errors, with their titles and long texts for `inferc explain CODE`.
//!
//! Data only.

use ir::diagnostic::Code;

pub(super) const UNEXPECTED: Code = Code("E0100");
pub(super) const SIZE: Code = Code("E0101");
pub(super) const CHARACTER: Code = Code("E0102");
pub(super) const BIDI: Code = Code("E0103");
pub(super) const STRING: Code = Code("E0104");
pub(super) const ESCAPE: Code = Code("E0105");
pub(super) const NUMBER: Code = Code("E0106");
pub(super) const NAME: Code = Code("E0107");
pub(super) const DEPTH: Code = Code("E0108");
pub(super) const UNCLOSED: Code = Code("E0109");
pub(super) const KEYWORD: Code = Code("E0110");
pub(super) const SEPARATOR: Code = Code("E0111");
pub(super) const FOREIGN: Code = Code("E0112");
pub(super) const CHAIN: Code = Code("E0113");
pub(super) const RESERVED: Code = Code("E0114");
pub(super) const HOLE: Code = Code("E0115");
pub(super) const OPERAND: Code = Code("E0116");
pub(super) const CLAUSE: Code = Code("E0117");
pub(super) const ROUTE: Code = Code("E0118");
pub(super) const RECORD: Code = Code("E0119");
pub(super) const STRAY: Code = Code("E0120");
pub(super) const MANY: Code = Code("E0121");

/// Code, title and long text of every syntax error.
pub const SYNTAX_CODES: &[(Code, &str, &str)] = &[
    (
        UNEXPECTED,
        "something else was expected here",
        "The text does not follow the grammar at this place. The message names what could stand there and what was \
         found. Reading goes on after the next `;`, `,` or closing bracket, so that later mistakes are reported too.",
    ),
    (
        SIZE,
        "the file is too large",
        "A source file may have at most 1 MiB. Prompts and documents belong in parameters, not in the program: pass \
         them as `Text` and interpolate them with `${…}`.",
    ),
    (
        CHARACTER,
        "a character that cannot stand in a source file",
        "Control characters (NUL included), byte order marks after the first character and characters outside of the \
         grammar are refused. Any character can be written inside a string as `\\u{…}` with its code in hexadecimal.\n\
         Names are ASCII letters, digits and `_`.",
    ),
    (
        BIDI,
        "an invisible character changes the direction of text",
        "Direction controls make a program look different from what is compiled, and nobody sees them in a review. \
         They are refused everywhere, comments and strings included. If a prompt needs one, write `\\u{202e}`.",
    ),
    (
        STRING,
        "a string is not closed",
        "A string `\"…\"` ends on its line. Text of several lines is written between three quotes:\n\n    user \"\"\"\n        \
         First line\n        Second line\n        \"\"\"\n\nThe common indentation is removed, and so are the line break after the \
         opening and the last line when only the closing quotes stand on it.",
    ),
    (
        ESCAPE,
        "an unknown escape in a string",
        "The escapes are `\\n` `\\t` `\\r` `\\\\` `\\\"` `\\$` and `\\u{…}` with one to six hexadecimal digits. A single \
         backslash is written `\\\\`. Three quotes start a raw string, in which backslashes are ordinary characters: \
         the comfortable form for regular expressions.",
    ),
    (
        NUMBER,
        "a number that cannot be read",
        "A number is decimal digits, optionally grouped with `_`, optionally with a fraction, and optionally a unit \
         glued to it: `12`, `1_000`, `0.5`, `4ktok`, `900ms`, `0.02usd`, `12GiB`, `1%`. There are no exponents, no \
         hexadecimal numbers, and a fraction has a digit before and after its point.",
    ),
    (
        NAME,
        "a name is too long",
        "A name has at most 255 characters. Text belongs in strings: between `\"` and `\"`, or three quotes on each side.",
    ),
    (
        DEPTH,
        "the program is nested too deeply",
        "Expressions, types and blocks may be nested 256 levels deep; a chain of operators or of calls counts one level \
         a link. Split the expression with `let`. Reading stops at this place.",
    ),
    (
        UNCLOSED,
        "a bracket is not closed",
        "An opening `(`, `[` or `{` has no partner. The message shows where it was opened; the place of the error is \
         where something stood that cannot be inside it.",
    ),
    (
        KEYWORD,
        "an unknown item or a misspelled keyword",
        "A file is a list of items, and each starts with one of `use model tool type enum prompt const tunable fn strategy \
         precompute test`. Statements stand inside `fn`, `strategy`, `precompute` and `test`.",
    ),
    (
        SEPARATOR,
        "a `;` or a `,` is missing",
        "Every statement but the last value of a block ends with `;`; elements of lists, arguments, fields and arms are \
         separated by `,`. Statements that end with a block (`if match route for par race within`) need no `;`.",
    ),
    (
        FOREIGN,
        "this is written differently here",
        "Some habits of other languages have another spelling: `and or not` for `&& || !`, `//` for every comment, double \
         quotes for text, `for x in 0..N` for loops (always with a constant bound), and `for … carry acc = init` instead \
         of assigning to a variable, because values do not change.",
    ),
    (
        CHAIN,
        "comparisons and ranges do not chain",
        "`a < b < c` has no meaning that is certain to be the one meant. Write `a < b and b < c`. A range has exactly two \
         ends.",
    ),
    (
        RESERVED,
        "a keyword cannot be a name",
        "The word belongs to the grammar. Keywords may be used after a dot and as the name of an argument or field. \
         `system user assistant token step end set` and the words of clauses (`min cost timeout ttl warm needs allow \
         carry`) are ordinary names everywhere else.",
    ),
    (
        HOLE,
        "a hole in a string cannot be read",
        "`${expr}` puts the text of an expression into a string. It holds one expression, stays on its line in a plain \
         string, and contains neither comments nor raw strings. The characters themselves are written `\\${` in a plain \
         string and `${\"\\${\"}` in a raw one.",
    ),
    (
        OPERAND,
        "a block is not an operand",
        "`if match route for par race within` end with a block and stand alone: as a statement, after `=`, as an argument \
         or an arm. To compute with their value put them in parentheses: `(for … { … }) ?? fail \"nothing\"`, or bind \
         them with `let`. A bare `{ … }` is the body of a lambda or of an arm only.",
    ),
    (
        CLAUSE,
        "a clause that does not belong here",
        "A strategy may have `within { … }` and `allow { … }` between its result type and its body; a precompute \
         `within { … }`, `warm …` and `ttl …`. Each at most once.",
    ),
    (
        ROUTE,
        "a route needs an `else` arm",
        "`route CHOICE min P { label => …, else => … }` takes `else` when no label is certain enough or the label has no \
         arm, so the last arm is always `else`.",
    ),
    (
        RECORD,
        "record literals are not part of this version",
        "`{ name: value }` stands after `within`, `allow` and `par` only. A record comes out of a model with \
         `out: json(T)`.",
    ),
    (STRAY, "a closing bracket without an opening one", "Remove it, or add the bracket that it should close."),
    (MANY, "too many errors", "Reading stopped after a hundred errors in one file. Mend the first ones and run again."),
];
