//! SIGKILL at random moments, while two clients write, and again during the recovery.

use std::time::Duration;

use shoal::platform::random::{Random, SeededRandom};

use super::daemon::{Start, command, data_dir};
use super::history::Actor;
use super::machine::number_from_environment;

#[test]
fn no_acknowledged_write_is_lost_or_half_there_after_kills_at_random_moments() {
    let kills = number_from_environment("SHOAL_KILLS").unwrap_or(30);
    let random = SeededRandom::new(kills);
    let (_folder, dir) = data_dir();
    // Small tails, so that flushes and merges of their own accord are hit, too.
    let start =
        Start { environment: vec![("SHOAL_STORAGE__FLUSH_BYTES", (64 << 10).to_string())], ..Start::default() };
    let mut actors: Vec<Actor> = (1..=2).map(|number| Actor::new(number, kills)).collect();
    let mut again = 0;
    for kill in 0..kills {
        let when = format!("kill {kill}");
        if random.next_u64().is_multiple_of(3) {
            // The recovery is killed, too.
            let starting = start.begin(&dir);
            std::thread::sleep(Duration::from_micros(random.next_u64() % 60_000));
            starting.kill();
            again += 1;
        }
        if kill % 16 == 15 {
            let (is_whole, said) = command(&["check", "--level", "3"], &dir);
            assert!(is_whole, "{when}: {said}");
        }
        let daemon = start.run(&dir);
        for actor in &mut actors {
            actor.settle(&mut daemon.client(), &when);
        }
        // The moment of the kill is what varies; it synchronises nothing.
        let lifetime = Duration::from_micros(random.next_u64() % 250_000);
        std::thread::scope(|scope| {
            for actor in &mut actors {
                let mut client = daemon.client();
                scope.spawn(move || actor.run(&mut client, usize::MAX));
            }
            std::thread::sleep(lifetime);
            daemon.kill();
        });
    }
    let daemon = start.run(&dir);
    for actor in &mut actors {
        actor.settle(&mut daemon.client(), "at the end");
        assert!(actor.run(&mut daemon.client(), 20), "{}", daemon.said());
        actor.settle(&mut daemon.client(), "after more writes");
    }
    daemon.stop();
    let (is_whole, said) = command(&["check", "--level", "3"], &dir);
    assert!(is_whole, "{said}");
    let acknowledged: u64 = actors.iter().map(|actor| actor.acknowledged).sum();
    eprintln!("{kills} kills and {again} during recovery, {acknowledged} requests acknowledged, none lost");
    assert!(acknowledged > kills, "only {acknowledged} requests were acknowledged");
}
