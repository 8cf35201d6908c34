//! What several commands print.

use super::options;
use sara_compiler::fit::Fit;
use sara_runtime::executor::{Site, Taken, memory};
use sara_runtime::plan::{Part, Plan};
use serde::Serialize;
use std::io::Write;

/// A number of bytes for people.
pub(super) fn bytes(n: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let n = n as f64;
    if n >= 1024.0 * MIB {
        format!("{:.2} GiB", n / (1024.0 * MIB))
    } else if n >= 0.1 * MIB {
        format!("{:.1} MiB", n / MIB)
    } else {
        format!("{:.1} KiB", n / 1024.0)
    }
}

/// Rows in aligned columns; the first column is text, the others are numbers.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(c, cell)| match c {
            0 => format!("{cell:<w$}", w = widths[0]),
            _ => format!("{cell:>w$}", w = widths[c]),
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Memory of a plan, by kind.
#[derive(Serialize)]
pub(super) struct Memory {
    weights: u64,
    mapped_pages: u64,
    sparse_state: u64,
    constants: u64,
    arena: u64,
    /// What the largest program keeps in the arena for its backward.
    kept: u64,
    scratch: u64,
    /// Sum of the others: what training takes besides the program itself.
    pub(super) total: u64,
    /// Whether that is memory of a device.
    on_device: bool,
    /// Bytes alive at the busiest moment of each program: what no placement could go below.
    programs: Vec<ProgramMemory>,
}

#[derive(Serialize)]
struct ProgramMemory {
    name: String,
    arena: u64,
    live: u64,
    kept: u64,
    busiest: String,
    /// Floating-point operations, and those of them that compute again what was not kept.
    flops: u64,
    flops_again: u64,
}

impl Memory {
    pub(super) fn of(plan: &Plan, site: Site) -> Memory {
        let taken = memory(plan, site);
        let on_device = matches!(site, Site::Device(_));
        let Taken { weights, pages: mapped_pages, state: sparse_state, constants, arena, scratch } = taken;
        let total = taken.total();
        let programs = plan.programs.iter().filter(|p| !p.name.starts_with("lowrank:")).map(|p| ProgramMemory {
            name: p.name.clone(),
            arena: p.arena_bytes,
            live: p.peak.live_bytes,
            kept: plan.kept_bytes(p),
            flops: Part::ALL.iter().map(|part| plan.flops(p, *part)).sum(),
            flops_again: plan.flops(p, Part::Again),
            busiest: p.steps.get(p.peak.step as usize).map_or(String::new(), |s| match s.origin.as_str() {
                "" => s.kernel.name.to_owned(),
                origin => format!("{} of {origin}", s.kernel.name),
            }),
        });
        let programs: Vec<ProgramMemory> = programs.collect();
        let kept = programs.iter().max_by_key(|p| p.arena).map_or(0, |p| p.kept);
        Memory { weights, mapped_pages, sparse_state, constants, arena, kept, scratch, total, on_device, programs }
    }

    pub(super) fn print(&self) {
        let row = |name: &str, n: u64| vec![name.to_owned(), bytes(n)];
        let [pages, scratch, of] = match self.on_device {
            false => ["pages of weights in their file", "scratch of the threads", ""],
            true => ["weights on their way from their file", "scratch of launches", " of the device"],
        };
        let rows = [
            row("weights", self.weights),
            row(pages, self.mapped_pages),
            row("sparse state", self.sparse_state),
            row("constants", self.constants),
            row("kept for the backward", self.kept),
            row("working set", self.arena - self.kept),
            row(scratch, self.scratch),
            row("peak", self.total),
        ];
        say!("memory{of}\n{}", table(&rows));
        for p in &self.programs {
            let share = if p.live == 0 { 1.0 } else { p.arena as f64 / p.live as f64 };
            say!("  {}: arena {}, {:.3}x the bytes alive at {}", p.name, bytes(p.arena), share, p.busiest);
            if p.flops_again > 0 {
                let (again, once) = (p.flops_again as f64, (p.flops - p.flops_again) as f64);
                say!("  {}: {:.1} GF computed again, {:.1} % more", p.name, again / 1e9, 100.0 * again / once);
            }
        }
    }
}

/// That training takes more memory than it may, and with what it would not.
pub(super) fn over_limit(limit: u64, least: u64, others: &[Fit]) -> String {
    let said = format!("training takes at least {} of memory, and the limit is {}", bytes(least), bytes(limit));
    let elsewhere = "raise --memory-limit where there is more memory, train fewer entries, or take a smaller batch or smaller pictures";
    match others {
        [] => format!("{said}; {elsewhere}"),
        [fit] if fit.bytes > limit => {
            format!("{said}; with {} it still takes {}: {elsewhere}", options::flags(fit), bytes(fit.bytes))
        }
        fits => {
            let rows: Vec<_> = fits.iter().map(|fit| vec![options::flags(fit), bytes(fit.bytes)]).collect();
            format!("{said}; within it stays\n{}\nor {elsewhere}", table(&rows))
        }
    }
}

/// Largest resident memory of this process so far, in bytes.
pub(super) fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Selection of a plan, in words.
pub(super) fn selection(plan: &Plan) -> String {
    let s = &plan.selection;
    format!(
        "trainable params: {} || all params: {} || trainable%: {:.4} (threshold {:.4e})",
        grouped(s.trainable),
        grouped(s.total),
        100.0 * s.trainable as f64 / s.total.max(1) as f64,
        s.threshold
    )
}

/// A number with its thousands apart.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Prints a report as JSON to stdout.
pub(super) fn json(value: &impl Serialize) -> Result<(), super::Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| super::Failure::Plain(e.to_string()))?;
    say!("{text}");
    Ok(())
}

/// One JSON object on a line of stdout.
pub(super) fn json_line(value: &impl Serialize) -> Result<(), super::Failure> {
    let text = serde_json::to_string(value).map_err(|e| super::Failure::Plain(e.to_string()))?;
    say!("{text}");
    Ok(())
}

/// `text` without what would steer a terminal: names in a file can hold anything.
pub(super) fn printable(text: &str) -> String {
    let escaped = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.into() };
    text.chars().map(escaped).collect()
}

/// What `say!` does.
pub(super) fn line(text: std::fmt::Arguments<'_>) {
    match writeln!(std::io::stdout(), "{}", printable(&text.to_string())) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("error: stdout cannot be written to: {e}");
            std::process::exit(1);
        }
        _ => {}
    }
}
