//! A power cut with a real journal: the file system under the daemon is shut down, mounted again, and recovered.
//!
//! Its unprivileged twin, which runs always, is `engine_crashes`: the disk in memory loses power at every operation.

use std::time::Instant;

use super::daemon::{Start, command};
use super::history::Actor;
use super::machine::{Mounted, number_from_environment, run, skipped, text};

#[test]
fn no_acknowledged_write_is_lost_when_the_power_of_an_ext4_goes() {
    if let Err(why) = run("xfs_io", &["-V"]) {
        return skipped("a power cut on ext4", &why);
    }
    let mounted = match Mounted::ext4(64 << 20) {
        Ok(mounted) => mounted,
        Err(why) => return skipped("a power cut on ext4", &why),
    };
    let rounds = number_from_environment("SHOAL_KILLS").map_or(3, |kills| (kills / 20).max(3));
    let start =
        Start { environment: vec![("SHOAL_STORAGE__FLUSH_BYTES", (64 << 10).to_string())], ..Start::default() };
    let data = mounted.path.join("data");
    let mut actors: Vec<Actor> = (1..=2).map(|number| Actor::new(number, 40)).collect();
    for round in 0..rounds {
        let when = format!("power cut {round}");
        let daemon = start.run(&data);
        for actor in &mut actors {
            actor.settle(&mut daemon.client(), &when);
        }
        let (cut, began) = std::thread::scope(|scope| {
            for actor in &mut actors {
                let mut client = daemon.client();
                // Until the disk is gone: then every write is refused, and nothing more may be acknowledged.
                scope.spawn(move || while actor.step(&mut client) && actor.possible.len() == 1 {});
            }
            std::thread::sleep(std::time::Duration::from_millis(80 + 53 * (round % 7)));
            // The file system goes down somewhere in here. ext4 then calls one sync done that it is not: two threads that only
            // append and call fdatasync lose the last one in 1 of 20 such cuts, too.
            let began = Instant::now();
            let cut = run("xfs_io", &["-x", "-c", "shutdown", text(&mounted.path)]);
            if cut.is_err() {
                daemon.kill();
                return (cut, began);
            }
            // Clients end with their first refusal; one that only reads on would not.
            std::thread::sleep(std::time::Duration::from_millis(50));
            daemon.kill();
            (cut, began)
        });
        actors.iter_mut().for_each(|actor| actor.doubt_the_last_since(began));
        if let Err(why) = cut {
            return skipped("a power cut on ext4", &why);
        }
        mounted.unmount().unwrap();
        mounted.mount_image().unwrap();
    }
    let daemon = start.run(&data);
    for actor in &mut actors {
        actor.settle(&mut daemon.client(), "at the end");
    }
    daemon.stop();
    let (is_whole, said) = command(&["check", "--level", "3"], &data);
    assert!(is_whole, "{said}");
    mounted.unmount().unwrap();
    mounted.check_image().unwrap();
    let acknowledged: u64 = actors.iter().map(|actor| actor.acknowledged).sum();
    eprintln!("{rounds} power cuts on ext4, {acknowledged} requests acknowledged, none lost");
}
