//! Lets the targets find libtorch at run time without `LD_LIBRARY_PATH`.

fn main() {
    if let Ok(folder) = std::env::var("LIBTORCH") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}/lib");
    }
}
