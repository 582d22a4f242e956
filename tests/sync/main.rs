//! What nodes that share a bucket are promised: after they met, everybody has what anybody wrote.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod budget;
mod clocks;
mod clones;
mod clones_of_projects;
mod collisions;
mod comebacks;
mod crowded;
mod cut_off;
mod damaged;
mod damaged_here;
mod deleting;
mod ending;
mod far_rows;
#[path = "../support/faulty_store.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod faulty_store;
mod fleet;
mod following;
mod foreign;
mod full;
mod histories;
#[path = "../engine/hook_disk.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod hook_disk;
mod id_ranges;
mod little;
mod lives;
mod lost;
#[path = "../process_crashes/machine.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod machine;
mod meeting;
mod meetings;
mod merged_elsewhere;
mod month;
#[path = "../support/node.rs"]
mod node;
mod odd_store;
mod oracle;
mod parts;
mod places;
mod put_back;
mod reclaiming;
mod replaced;
mod returning;
mod reusing;
mod schemas;
mod settings;
mod slow;
#[path = "../support/servers.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod started;
mod starved;
mod tag_misreads;
mod tag_oracle;
mod tags;
mod tags_crowded;
mod tags_lost;
mod tags_untold;
mod unlucky;
mod unmounted;
mod unreadable;
mod unsent;
mod upkeep;
mod waiting;
mod wide;
mod wire;
