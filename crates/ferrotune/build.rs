//! Writes libtorch's folder into the run path of whatever this package links, so that it runs without
//! LD_LIBRARY_PATH. `DEP_TCH_LIBTORCH_LIB` comes from torch-sys.

fn main() {
    if let Ok(folder) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        let folder = std::fs::canonicalize(&folder).map_or(folder, |path| path.display().to_string());
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
        // CUDA's library is used through a table it registers itself in; keep it although no symbol names it.
        // Not for the light binary, which starts in milliseconds because it does not load libtorch.
        println!("cargo:rustc-link-arg-bin=ferrotune-torch=-Wl,--no-as-needed");
        println!("cargo:rustc-link-arg-bin=ferrotune-torch=-ltorch");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
