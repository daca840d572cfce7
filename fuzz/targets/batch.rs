#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| lmdb_images_fuzz::batch::run(data));
