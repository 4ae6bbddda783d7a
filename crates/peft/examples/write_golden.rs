//! Writes the adapters that `tests/golden/make.py ours` reads back with peft.

#[path = "../tests/tiny/mod.rs"]
mod tiny;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: write_golden FOLDER")?;
    for (name, _) in tiny::ours() {
        let (_, adapter) = tiny::ours_on_base(name);
        ferrotune_peft::save(&adapter, &std::path::Path::new(&folder).join(name))?;
    }
    Ok(())
}
