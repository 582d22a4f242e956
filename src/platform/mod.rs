//! The operating system, behind the traits through which tests inject faults.

pub mod allowance;
pub mod clock;
pub mod disk;
mod lost_pages;
pub mod memory_disk;
pub mod mmap;
pub mod new_file;
pub mod open_files;
pub mod owner;
pub mod random;
pub mod reads;
pub mod real_disk;
pub mod turns;
pub mod wall;
