//! Capital letters, figures and a few signs of 5x7 pixels.

/// The height of a line of text in pixels.
pub(crate) const HEIGHT: usize = 7;
/// The width of a sign in pixels; between two signs one column is free.
const WIDTH: usize = 5;

/// Each sign's rows from the top. A row is 5 bits, the leftmost pixel highest.
const GLYPHS: [(char, [u8; HEIGHT]); 44] = [
    ('A', [0o16, 0o21, 0o21, 0o37, 0o21, 0o21, 0o21]),
    ('B', [0o36, 0o21, 0o21, 0o36, 0o21, 0o21, 0o36]),
    ('C', [0o16, 0o21, 0o20, 0o20, 0o20, 0o21, 0o16]),
    ('D', [0o36, 0o21, 0o21, 0o21, 0o21, 0o21, 0o36]),
    ('E', [0o37, 0o20, 0o20, 0o36, 0o20, 0o20, 0o37]),
    ('F', [0o37, 0o20, 0o20, 0o36, 0o20, 0o20, 0o20]),
    ('G', [0o16, 0o21, 0o20, 0o27, 0o21, 0o21, 0o16]),
    ('H', [0o21, 0o21, 0o21, 0o37, 0o21, 0o21, 0o21]),
    ('I', [0o16, 0o04, 0o04, 0o04, 0o04, 0o04, 0o16]),
    ('J', [0o07, 0o02, 0o02, 0o02, 0o02, 0o22, 0o14]),
    ('K', [0o21, 0o22, 0o24, 0o30, 0o24, 0o22, 0o21]),
    ('L', [0o20, 0o20, 0o20, 0o20, 0o20, 0o20, 0o37]),
    ('M', [0o21, 0o33, 0o25, 0o25, 0o21, 0o21, 0o21]),
    ('N', [0o21, 0o21, 0o31, 0o25, 0o23, 0o21, 0o21]),
    ('O', [0o16, 0o21, 0o21, 0o21, 0o21, 0o21, 0o16]),
    ('P', [0o36, 0o21, 0o21, 0o36, 0o20, 0o20, 0o20]),
    ('Q', [0o16, 0o21, 0o21, 0o21, 0o25, 0o22, 0o15]),
    ('R', [0o36, 0o21, 0o21, 0o36, 0o24, 0o22, 0o21]),
    ('S', [0o17, 0o20, 0o20, 0o16, 0o01, 0o01, 0o36]),
    ('T', [0o37, 0o04, 0o04, 0o04, 0o04, 0o04, 0o04]),
    ('U', [0o21, 0o21, 0o21, 0o21, 0o21, 0o21, 0o16]),
    ('V', [0o21, 0o21, 0o21, 0o21, 0o21, 0o12, 0o04]),
    ('W', [0o21, 0o21, 0o21, 0o25, 0o25, 0o33, 0o21]),
    ('X', [0o21, 0o21, 0o12, 0o04, 0o12, 0o21, 0o21]),
    ('Y', [0o21, 0o21, 0o12, 0o04, 0o04, 0o04, 0o04]),
    ('Z', [0o37, 0o01, 0o02, 0o04, 0o10, 0o20, 0o37]),
    ('0', [0o16, 0o21, 0o23, 0o25, 0o31, 0o21, 0o16]),
    ('1', [0o04, 0o14, 0o04, 0o04, 0o04, 0o04, 0o16]),
    ('2', [0o16, 0o21, 0o01, 0o02, 0o04, 0o10, 0o37]),
    ('3', [0o37, 0o02, 0o04, 0o02, 0o01, 0o21, 0o16]),
    ('4', [0o02, 0o06, 0o12, 0o22, 0o37, 0o02, 0o02]),
    ('5', [0o37, 0o20, 0o36, 0o01, 0o01, 0o21, 0o16]),
    ('6', [0o06, 0o10, 0o20, 0o36, 0o21, 0o21, 0o16]),
    ('7', [0o37, 0o01, 0o02, 0o04, 0o10, 0o10, 0o10]),
    ('8', [0o16, 0o21, 0o21, 0o16, 0o21, 0o21, 0o16]),
    ('9', [0o16, 0o21, 0o21, 0o17, 0o01, 0o02, 0o14]),
    ('.', [0o00, 0o00, 0o00, 0o00, 0o00, 0o14, 0o14]),
    (',', [0o00, 0o00, 0o00, 0o00, 0o14, 0o04, 0o10]),
    ('-', [0o00, 0o00, 0o00, 0o37, 0o00, 0o00, 0o00]),
    ('+', [0o00, 0o04, 0o04, 0o37, 0o04, 0o04, 0o00]),
    (':', [0o00, 0o14, 0o14, 0o00, 0o14, 0o14, 0o00]),
    ('=', [0o00, 0o00, 0o37, 0o00, 0o37, 0o00, 0o00]),
    ('%', [0o30, 0o31, 0o02, 0o04, 0o10, 0o23, 0o03]),
    ('/', [0o00, 0o01, 0o02, 0o04, 0o10, 0o20, 0o00]),
];

/// The pixels (x, y) of a line of text, from its top left. Small letters are drawn as capitals, and signs that
/// are not in the font are blank.
pub(crate) fn pixels(text: &str) -> impl Iterator<Item = (usize, usize)> {
    text.chars().enumerate().flat_map(|(column, sign)| {
        let found = GLYPHS.iter().find(|(glyph, _)| *glyph == sign.to_ascii_uppercase());
        let rows = found.map_or([0; HEIGHT], |(_, rows)| *rows);
        let all = (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y)));
        let set = all.filter(move |&(x, y)| rows[y] >> (WIDTH - 1 - x) & 1 == 1);
        set.map(move |(x, y)| (column * (WIDTH + 1) + x, y))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_drawn_from_the_left() {
        let mut lines = vec![vec![' '; 11]; 7];
        pixels("l?").chain(pixels(" T")).for_each(|(x, y)| lines[y][x] = '#');
        let lines: Vec<String> = lines.into_iter().map(String::from_iter).collect();
        assert_eq!(lines[0], "#     #####");
        assert_eq!(lines[3], "#       #  ");
        assert_eq!(lines[6], "#####   #  ");
    }
}
