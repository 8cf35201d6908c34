//! One HTML file that holds everything it shows: text, tables, drawings and pictures.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2rem}table{border-collapse:collapse}\
td{padding:.15rem 1.2rem .15rem 0;vertical-align:top;overflow-wrap:anywhere}td:first-child{color:#666}\
figure{margin:1rem 0}figcaption{color:#666;font-size:.9rem}svg{width:100%;height:auto;border:1px solid #ddd}\
.pictures{display:flex;flex-wrap:wrap;gap:.6rem}.pictures figure{margin:0}\
.pictures img{width:9rem;display:block}.wide{max-width:100%}pre{background:#f4f4f4;padding:.8rem;overflow-x:auto}";

/// A page that is being written.
pub struct Page {
    html: String,
}

impl Page {
    /// A page with a title.
    pub fn new(title: &str) -> Page {
        let title = escaped(title);
        let html = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        );
        Page { html }
    }

    /// A heading.
    pub fn heading(&mut self, text: &str) {
        self.html += &format!("<h2>{}</h2>\n", escaped(text));
    }

    /// A table of two columns.
    pub fn table(&mut self, rows: &[(String, String)]) {
        let row = |(name, value): &(String, String)| {
            format!("<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(value))
        };
        self.html += &format!("<table>{}</table>\n", rows.iter().map(row).collect::<String>());
    }

    /// A drawing that this crate made.
    pub fn drawing(&mut self, svg: &str, caption: &str) {
        self.html += &format!("<figure>{svg}<figcaption>{}</figcaption></figure>\n", escaped(caption));
    }

    /// A picture in its own size, or as wide as the page: the bytes of a PNG file.
    pub fn picture(&mut self, png: &[u8], caption: &str) {
        let (data, caption) = (STANDARD.encode(png), escaped(caption));
        self.html += &format!(
            "<figure><img class=\"wide\" src=\"data:image/png;base64,{data}\" alt=\"{caption}\"><figcaption>{caption}</figcaption></figure>\n"
        );
    }

    /// Pictures in rows, each the bytes of a PNG file with a caption.
    pub fn pictures(&mut self, list: &[(Vec<u8>, String)]) {
        let figure = |(png, caption): &(Vec<u8>, String)| {
            let (data, caption) = (STANDARD.encode(png), escaped(caption));
            format!(
                "<figure><img src=\"data:image/png;base64,{data}\" alt=\"{caption}\"><figcaption>{caption}</figcaption></figure>"
            )
        };
        self.html += &format!("<div class=\"pictures\">{}</div>\n", list.iter().map(figure).collect::<String>());
    }

    /// Text as it would stand in a terminal.
    pub fn terminal(&mut self, text: &str) {
        self.html += &format!("<pre>{}</pre>\n", escaped(text));
    }

    /// The page.
    pub fn finish(self) -> String {
        self.html + "</body></html>\n"
    }
}

pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_control() && c != '\n' => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_pictures_are_inside() {
        let mut page = Page::new("<run> & \"co\"");
        page.heading("a<b");
        page.table(&[("loss".into(), "<script>\u{7}".into())]);
        page.pictures(&[(b"PNG".to_vec(), "step 1".into())]);
        let html = page.finish();
        for part in ["&lt;run&gt; &amp; &quot;co&quot;", "a&lt;b", "&lt;script&gt;\\u{7}", "base64,UE5H", "step 1"] {
            assert!(html.contains(part), "{part}");
        }
        assert!(!html.contains("<script"));
    }
}
