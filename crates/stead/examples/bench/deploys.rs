//! What a developer waits for: `stead up`, a save under `stead dev`, `stead rollback`, each until its answer is seen at the
//! function's URL.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::functions::place;
use crate::{Host, SAMPLES, ms, row, stead};

const MANIFEST: &str = "app = \"deploys\"
[function.api]
code = \"api\"
runtime = \"nodejs24.x\"
handler = \"index.handler\"
url = true
";

/// See above.
pub(crate) async fn deploys(host: &Host, code: &str) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("stead.toml"), MANIFEST).unwrap();
    std::fs::create_dir(folder.join("api")).unwrap();
    let save = |number: usize| {
        let code = code.replace("answer: 42", &format!("answer: {number}"));
        std::fs::write(folder.join("api/index.mjs"), code).unwrap();
    };
    save(0);
    run(host, folder, &["up", "--tenant", "bench", "--yes"]);
    let port = place(&host.home, "deploys").port;

    let mut times = Vec::new();
    for number in 1..=SAMPLES {
        save(number);
        let began = Instant::now();
        run(host, folder, &["up", "--yes"]);
        assert_eq!(answer(port), Some(number));
        times.push(ms(began));
    }
    row("`stead up` of a changed function, command -> first answer", &times, None);

    let mut times = Vec::new();
    for number in 1..=SAMPLES {
        let began = Instant::now();
        run(host, folder, &["rollback", "--to", &number.to_string()]);
        // The first release is that of the answer 0.
        assert_eq!(answer(port), Some(number - 1));
        times.push(ms(began));
    }
    row("`stead rollback`, command -> first answer", &times, None);

    let mut dev = command(host, folder, &["dev", "--yes"]);
    let mut dev = dev.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(dev.stderr.take().unwrap()).lines();
    let watches = said.by_ref().map_while(Result::ok).any(|line| line.contains("every save is live"));
    assert!(watches);
    // What it goes on saying is not to fill the pipe.
    let reading = std::thread::spawn(move || said.map_while(Result::ok).for_each(drop));
    let mut times = Vec::new();
    for number in 1_000..1_000 + SAMPLES {
        let began = Instant::now();
        save(number);
        while answer(port) != Some(number) {
            assert!(began.elapsed().as_secs() < 30, "save {number} is not live");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        times.push(ms(began));
        // As a person would, not at once again.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    dev.kill().unwrap();
    dev.wait().unwrap();
    reading.join().unwrap();
    row("a save under `stead dev` -> its answer", &times, None);
}

fn command(host: &Host, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(stead());
    command.arg("--home").arg(&host.home).args(args).current_dir(folder).stdin(Stdio::null());
    command
}

fn run(host: &Host, folder: &Path, args: &[&str]) {
    let output = command(host, folder, args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the function answers now.
fn answer(port: u16) -> Option<usize> {
    let body = crate::calls::body(port)?;
    serde_json::from_str::<serde_json::Value>(&body).ok()?["answer"].as_u64()?.try_into().ok()
}
