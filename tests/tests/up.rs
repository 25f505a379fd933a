//! `postern up`, started and read as a user does.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use postern_tests::client::{Client, basic};
use postern_tests::netns::in_namespace;
use postern_tests::process::{Postern, Up, binary, run};
use postern_tests::{eventually, upstream::Upstream, within};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// In a namespace of its own, because the lines name the usual ports.
#[tokio::test]
async fn every_printed_line_can_be_executed() {
    in_namespace("printed_lines").await;
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn printed_lines() {
    let up = Up::demo().await;
    let output = up.process.output();
    let connect = lines(&output, " connect ");
    assert_eq!(connect.len(), 1, "one line that becomes a peer in:\n{output}");
    let _peer = connected(&connect[0], up.folder.path()).await;

    let curl: Vec<_> = lines(&output, "curl ").into_iter().filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(curl.len(), 3, "one line for each demo service in:\n{output}");
    for line in curl {
        let (body, _) = shell(&line, up.folder.path()).await;
        assert!(body.to_lowercase().contains("x-forwarded-for"), "{line} shows what the upstream received:\n{body}");
        assert_eq!(body.contains("x-netbird-user"), !line.contains("hello."), "{line} shows who asks:\n{body}");
    }
    assert!(output.contains("postern.toml"), "it says how to publish something real:\n{output}");
    assert!(output.contains(up.ready["data_dir"].as_str().expect("a path")), "it says where its data lies:\n{output}");
}

/// The printed lines that contain a word.
fn lines(output: &str, word: &str) -> Vec<String> {
    output.lines().map(str::trim).filter(|line| line.contains(word)).map(str::to_owned).collect()
}

/// Runs a printed line in a folder: what it says on the output and on the error stream.
async fn shell(line: &str, folder: &Path) -> (String, String) {
    let run = Command::new("sh").args(["-c", line]).current_dir(folder).kill_on_drop(true).output();
    let result = within("a printed line", run).await.expect("sh runs");
    let [output, error] = [&result.stdout, &result.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(result.status.success(), "{line}\n{error}");
    (output, error)
}

/// The peer that a printed line becomes, once the proxy answers it.
async fn connected(line: &str, folder: &Path) -> Child {
    let mut peer = Command::new("sh");
    peer.args(["-c", &format!("exec {line}")]).current_dir(folder).kill_on_drop(true).stdout(Stdio::piped());
    let mut peer = peer.spawn().expect("sh runs");
    let mut told = BufReader::new(peer.stdout.take().expect("piped")).lines();
    let first = within("the peer to be there", told.next_line()).await.expect("it prints").expect("a line");
    assert!(first.contains("SOCKS5 at 127.0.0.1:1080"), "{first}");
    loop {
        let line = within("the proxy to answer", told.next_line()).await.expect("it prints").expect("a line");
        if line.starts_with("connected: 127.0.0.1:") {
            return peer;
        }
    }
}

#[tokio::test]
async fn the_lines_for_one_s_own_services_can_be_executed_too() {
    in_namespace("own_lines").await;
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn own_lines() {
    let upstream = Upstream::named("app").await;
    let service = |name: &str, upstream: &str, access: &str| {
        format!("[service.{name}]\nhost = \"{name}.localhost\"\nupstream = \"{upstream}\"\naccess = {access}\n")
    };
    let url = upstream.url();
    let services = [
        service("wiki", &url, "{ private = [\"the engineers\"] }"),
        service("closed", &url, "{ private = [] }"),
        service("lab", "tunnel://unknown:80", "\"open\""),
        service("plain", &url, "\"open\""),
    ];
    let up = Up::with(&services.concat()).await;
    up.process.printed("Health").await;
    let (output, folder) = (up.process.output(), up.folder.path());
    let (add, connect) = (lines(&output, "peer add NAME"), lines(&output, " connect NAME.conf"));
    assert!(add.len() == 1 && add[0].contains("--groups 'the engineers'"), "{output}");
    let (printed, warned) = shell(&add[0].replace("NAME", "laptop"), folder).await;
    assert!(printed.is_empty() && warned.contains("can only be reached from this machine"), "{printed}{warned}");
    let _peer = connected(&connect[0].replace("NAME", "laptop"), folder).await;
    let curl: Vec<_> = lines(&output, "curl ").into_iter().filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(curl.len(), 2, "for what can work, and for nothing else:\n{output}");
    for line in curl {
        assert_eq!(shell(&line, folder).await.0, "app", "{line}");
    }
    for (name, why) in [("closed", "nobody may enter"), ("lab", "there is no peer unknown; add it")] {
        let problem = service_of(&up.ready, name)["problem"].as_str().expect("a sentence");
        assert!(problem.contains(why) && output.contains(&format!("\n  {problem}\n")), "{problem}\n{output}");
    }
    for name in ["wiki", "plain"] {
        assert!(service_of(&up.ready, name)["problem"].is_null(), "{}", up.ready);
    }
}

#[tokio::test]
async fn the_ready_file_tells_a_script_everything() {
    let up = Up::demo().await;
    assert_eq!(up.ready["pid"], u64::from(up.process.pid()));
    for key in ["ca_file", "data_dir", "demo_peer_conf"] {
        let path = Path::new(up.ready[key].as_str().expect(key));
        assert!(path.is_absolute() && path.exists(), "{key} is {}", path.display());
    }
    let services = up.ready["services"].as_array().expect("services");
    let named = |name: &str| services.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    let (hello, vault, inside) = (named("hello"), named("vault"), named("inside"));
    assert_eq!((&inside["kind"], &inside["url"]), (&Value::from("private"), &Value::from("https://inside.localhost")));
    assert_eq!((&hello["kind"], &vault["kind"]), (&Value::from("open"), &Value::from("basic")));
    assert!(hello["user"].is_null() && hello["password"].is_null(), "{hello}");

    let host = |service: &Value| -> String {
        let url = service["url"].as_str().expect("a url");
        assert!(url.contains(&format!(":{}", up.https().port())), "{url} carries the port");
        url.trim_start_matches("https://").split(['/', ':']).next().expect("a host").to_owned()
    };
    let client = up.client();
    assert_eq!(client.get(&host(hello), "/").await.status, 200);
    assert_eq!(client.get(&host(vault), "/").await.status, 401);
    let (user, password) = (vault["user"].as_str().expect("a user"), vault["password"].as_str().expect("a password"));
    let request = http::Request::get("/json")
        .header("host", host(vault))
        .header("accept", "application/json")
        .header("authorization", basic(user, password))
        .body(Default::default())
        .expect("a request");
    let answer = client.send(&host(vault), request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen: Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert!(seen.to_string().to_lowercase().contains("x-netbird-user"), "{seen}");
    assert!(!seen.to_string().to_lowercase().contains("\"authorization\""), "the credential stays with us: {seen}");
}

#[tokio::test]
async fn json_is_one_object_for_scripts() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let arguments = ["up", "--json", "--https", "127.0.0.1:0", "--management", "127.0.0.1:0", "--health-addr", ""];
    let process = Postern::start(&[&arguments[..], &["--data-dir", data.to_str().expect("UTF-8")]].concat(), &[]);
    let line = process.printed("\"services\"").await;
    let value: Value = serde_json::from_str(&line).expect("one JSON object on one line");
    assert_eq!(value["services"].as_array().map(Vec::len), Some(3));
    let (code, output) = process.stop().await;
    assert_eq!(code, Some(0), "SIGTERM ends it cleanly:\n{output}");
}

#[tokio::test]
async fn a_second_instance_on_one_folder_is_told_so_and_a_restart_keeps_the_ca() {
    let mut up = Up::demo().await;
    let ca = std::fs::read(up.ca()).expect("the CA is readable");
    let data = up.folder.path().join("data").into_os_string().into_string().expect("UTF-8");
    let arguments =
        ["up", "--data-dir", &data, "--https", "127.0.0.1:0", "--management", "127.0.0.1:0", "--health-addr", ""];
    let (code, output) = run(&arguments, &[]).await;
    assert_ne!(code, Some(0));
    assert!(output.contains("postern: ") && output.contains(&data), "one sentence that names the folder:\n{output}");

    let (code, output) = std::mem::replace(&mut up.process, Postern::start(&["--version"], &[])).stop().await;
    assert_eq!(code, Some(0), "{output}");
    let again = Postern::start(&arguments, &[]);
    again.printed("curl ").await;
    assert_eq!(std::fs::read(up.ca()).expect("the CA is readable"), ca);
}

#[tokio::test]
async fn what_is_in_the_way_is_named_with_the_next_action() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data").into_os_string().into_string().expect("UTF-8");
    let (code, output) = run(&["up", "--data-dir", &data, "--https", &addr], &[]).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains(&addr) && output.contains("--https"), "{output}");

    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").expect("the folder is writable");
    let file = file.into_os_string().into_string().expect("UTF-8");
    let (code, output) = run(&["up", "--data-dir", &file], &[]).await;
    assert!(matches!(code, Some(1 | 2)), "{output}");
    assert!(output.contains(&file) && !output.contains("panicked"), "{output}");
}

#[tokio::test]
async fn a_bad_file_lists_every_mistake_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("postern.toml");
    let text =
        "[service.app]\nhost = \"no host\"\nupstreem = \"http://127.0.0.1:1\"\naccess = { basic = [\"nobody\"] }\n";
    std::fs::write(&file, text).expect("writable");
    let data = folder.path().join("data");
    let arguments = ["up", file.to_str().expect("UTF-8"), "--data-dir", data.to_str().expect("UTF-8")];
    let (code, output) = run(&arguments, &[]).await;
    assert_eq!(code, Some(2), "{output}");
    for part in [":2", ":3", ":4", "host", "upstream", "nobody"] {
        assert!(output.contains(part), "`{part}` in:\n{output}");
    }
}

#[tokio::test]
async fn a_change_is_taken_up_whole_or_refused_whole() {
    let (first, second) = (Upstream::named("first").await, Upstream::named("second").await);
    let service = |name: &str, upstream: &Upstream| {
        format!("[service.{name}]\nhost = \"{name}.test\"\nupstream = \"{}\"\naccess = \"open\"\n", upstream.url())
    };
    let up = Up::with(&service("app", &first)).await;
    let client = up.client();
    assert_eq!(client.get("app.test", "/").await.text(), "first");

    // One good service beside one bad one: nothing of it is taken up, and what worked goes on.
    up.configure(&format!("{}[service.bad]\nhost = \"bad.test\"\n", service("app", &second)));
    up.process.printed("postern.toml").await;
    assert_eq!(client.get("app.test", "/").await.text(), "first");

    up.configure(&format!("{}{}", service("app", &second), service("more", &first)));
    eventually("the changed file to be in force", || async {
        (client.get("app.test", "/").await.text() == "second").then_some(())
    })
    .await;
    assert_eq!(client.get("more.test", "/").await.text(), "first");
}

#[tokio::test]
async fn a_hundred_services_cost_less_than_40_megabytes() {
    let upstream = Upstream::named("app").await;
    let service = |n: u32| {
        format!("[service.s{n}]\nhost = \"s{n}.test\"\nupstream = \"{}\"\naccess = \"open\"\n", upstream.url())
    };
    let up = Up::with(&(0..100).map(service).collect::<String>()).await;
    // Ready means that all of them answer, and each has a certificate by then.
    for n in 0..100 {
        assert_eq!(up.client().get(&format!("s{n}.test"), "/").await.text(), "app", "s{n}");
    }
    let resident = up.process.resident();
    assert!(resident < 40 * 1024, "{resident} KiB");
}

/// `postern up` without a configuration on a folder that an earlier run has left, and its ready file.
async fn restarted(folder: &Path) -> (Postern, Value) {
    let path = |name: &str| folder.join(name).into_os_string().into_string().expect("UTF-8");
    let (data, file) = (path("data"), path("again.json"));
    // It may be of another run.
    let _ = std::fs::remove_file(&file);
    let addresses = ["--https", "127.0.0.1:0", "--management", "127.0.0.1:0", "--health-addr", ""];
    let process = Postern::start(&[&["up", "--data-dir", &data, "--ready-file", &file][..], &addresses].concat(), &[]);
    let ready = eventually("the ready file", || async {
        let text = std::fs::read(&file).ok()?;
        Some(serde_json::from_slice(&text).expect("the ready file is whole when it is there"))
    })
    .await;
    (process, ready)
}

fn demo_peer(up: &Up) -> (PathBuf, String) {
    let path = PathBuf::from(up.ready["demo_peer_conf"].as_str().expect("a path"));
    let text = std::fs::read_to_string(&path).expect("readable");
    (path, text)
}

fn service_of<'r>(ready: &'r Value, name: &str) -> &'r Value {
    let services = ready["services"].as_array().expect("services");
    services.iter().find(|service| service["name"] == name).expect("the demo has it")
}

#[tokio::test]
async fn without_its_tunnel_it_says_so_at_once_and_the_rest_answers() {
    let up = Up::demo().await;
    let (path, conf) = demo_peer(&up);
    let endpoint = conf.lines().find_map(|line| line.strip_prefix("Endpoint = ")).expect("an endpoint").to_owned();
    let Up { process, folder, .. } = up;
    process.stop().await;

    let taken = std::net::UdpSocket::bind(&endpoint).expect("it is free again");
    let (process, ready) = restarted(folder.path()).await;
    assert!(ready["demo_peer_conf"].is_null(), "{ready}");
    let problem = service_of(&ready, "inside")["problem"].as_str().expect("a sentence");
    let port = endpoint.rsplit(':').next().expect("a port");
    assert!(problem.contains(&format!("UDP port {port}")), "it has not waited for nothing: {problem}");
    let output = process.output();
    assert!(output.contains(&format!("\n  {problem}\n")), "it is printed:\n{output}");
    assert!(!output.contains(" connect ") && !output.contains("socks5h"), "no line that cannot work:\n{output}");
    assert!(service_of(&ready, "hello")["problem"].is_null(), "{ready}");
    let https = ready["https"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    let client = Client::new(https, &folder.path().join("data/ca.pem"));
    assert_eq!(client.get("hello.localhost", "/").await.status, 200);
    process.stop().await;

    drop(taken);
    let (process, ready) = restarted(folder.path()).await;
    assert_eq!(ready["demo_peer_conf"].as_str().map(Path::new), Some(&*path));
    assert!(service_of(&ready, "inside")["problem"].is_null(), "{ready}");
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), conf, "whoever used it goes on");
    process.stop().await;

    let keys: Vec<_> = std::fs::read_dir(folder.path().join("data/tunnel")).expect("the keys").collect();
    let mut damaged = 0;
    for entry in keys.into_iter().map(|entry| entry.expect("readable").path()) {
        if std::fs::metadata(&entry).is_ok_and(|about| about.is_file() && about.len() > 0) {
            std::fs::write(entry, "nonsense").expect("writable");
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let (_process, ready) = restarted(folder.path()).await;
    assert!(ready["demo_peer_conf"].is_null(), "{ready}");
    let problem = service_of(&ready, "inside")["problem"].as_str().expect("a sentence");
    assert!(problem.contains("data/tunnel"), "it names the file: {problem}");
}

#[tokio::test]
async fn a_proxy_elsewhere_leaves_the_demo_peer_alone() {
    let up = Up::demo().await;
    let (path, conf) = demo_peer(&up);
    let data = up.folder.path().join("data").into_os_string().into_string().expect("UTF-8");
    let (code, token) = run(&["token", "add", "elsewhere", "--data-dir", &data], &[]).await;
    assert_eq!(code, Some(0), "{token}");
    let certs = tempfile::tempdir().expect("a folder");
    postern_tests::certificate::write(certs.path(), &["inside.localhost"]);
    let mgmt = format!("https://{}", up.ready["management"].as_str().expect("an address"));
    let (ca, cert_dir) =
        (up.ca().into_os_string().into_string().expect("UTF-8"), certs.path().to_str().expect("UTF-8"));
    let elsewhere =
        ["proxy", "--mgmt", &mgmt, "--mgmt-ca", &ca, "--domain", "far.test", "--cert-dir", cert_dir, "--private"];
    let places = ["--addr", "127.0.0.1:0", "--health-addr", ""];
    let elsewhere = Postern::start(&[&elsewhere[..], &places].concat(), &[("NB_PROXY_TOKEN", token.trim())]);
    let sections = || async {
        let (_, shown) = run(&["peer", "show", "demo", "--data-dir", &data], &[]).await;
        shown.matches("[Peer]").count()
    };
    eventually("the other proxy in the tunnel", || async { (sections().await == 2).then_some(()) }).await;
    elsewhere.stop().await;
    let Up { process, folder, .. } = up;
    process.stop().await;

    let (_process, ready) = restarted(folder.path()).await;
    assert_eq!(ready["demo_peer_conf"].as_str().map(Path::new), Some(&*path));
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), conf, "it is the same peer with the same file");
}

#[tokio::test]
async fn the_asker_s_mistakes_end_with_2_and_what_could_not_be_done_with_1() {
    let up = Up::demo().await;
    let data = up.folder.path().join("data").into_os_string().into_string().expect("UTF-8");
    let key = "nonsense";
    for asked in [
        &["add", "no!name"][..],
        &["add", "laptop", "--public-key", key],
        &["add", "laptop", "--endpoint", "nowhere"],
        &["add", "laptop", "--site", "office"],
        &["add", "laptop", "--expires", "0"],
        &["add", "laptop", "--user", "a:b"],
        &["show", "nobody"],
        &["set", "demo"],
    ] {
        let (code, output) = run(&[&["peer"], asked, &["--data-dir", &data]].concat(), &[]).await;
        assert_eq!(code, Some(2), "{asked:?}\n{output}");
    }
    for good in [
        &["add", "laptop", "--user", "alice", "--expires", "2"][..],
        &["add", "printer", "--site", "10.20.0.5"],
        &["set", "laptop", "--no-user", "--no-expiry"],
        &["show", "laptop", "--endpoint", "vpn.example.com:51820"],
    ] {
        let (code, output) = run(&[&["peer"], good, &["--data-dir", &data]].concat(), &[]).await;
        assert_eq!(code, Some(0), "{good:?}\n{output}");
        if good[0] == "show" {
            assert!(output.contains("Endpoint = vpn.example.com:51820"), "{output}");
            assert!(output.contains("nobody's") && !output.contains("expires"), "both were cleared:\n{output}");
        }
    }
    up.process.stop().await;
    let (code, output) = run(&["peer", "list", "--data-dir", &data], &[]).await;
    assert_eq!(code, Some(1), "nobody is there to ask:\n{output}");
}

#[tokio::test]
async fn a_peer_file_that_can_never_work_is_refused() {
    let up = Up::demo().await;
    let (_, conf) = demo_peer(&up);
    let bad = up.folder.path().join("bad.conf");
    for (what, text) in [("AllowedIPs", conf.replace("AllowedIPs", "AllowedIP")), ("neither", "nonsense\n".repeat(500))]
    {
        std::fs::write(&bad, text).expect("writable");
        let (code, output) = run(&["connect", bad.to_str().expect("UTF-8"), "--socks", "127.0.0.1:0"], &[]).await;
        assert_eq!(code, Some(2), "{output}");
        assert!(output.contains(what) && output.lines().count() <= 11, "{output}");
    }
    std::fs::write(&bad, conf).expect("writable");
    let good = Postern::start(&["connect", bad.to_str().expect("UTF-8"), "--socks", "127.0.0.1:0"], &[]);
    good.printed("connected: ").await;
}

#[tokio::test]
async fn a_configuration_is_written_for_its_owner_alone_and_over_nothing() {
    let up = Up::demo().await;
    let path = |name: &str| up.folder.path().join(name).into_os_string().into_string().expect("UTF-8");
    let (data, conf) = (path("data"), path("laptop.conf"));
    let add = |name: &'static str, out: String| {
        let data = data.clone();
        async move { run(&["peer", "add", name, "--groups", "demo", "--out", &out, "--data-dir", &data], &[]).await }
    };
    let (code, output) = add("laptop", conf.clone()).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(!output.contains("PrivateKey"), "it stands in the file alone:\n{output}");
    let written = std::fs::read_to_string(&conf).expect("readable");
    assert!(written.starts_with("# Postern peer laptop\n") && written.contains("\nPrivateKey = "), "{written}");
    assert_eq!(std::fs::metadata(&conf).expect("there").permissions().mode() & 0o777, 0o600);

    let (code, output) = add("phone", conf.clone()).await;
    assert!(code == Some(2) && output.contains("is there already"), "{output}");
    assert_eq!(std::fs::read_to_string(&conf).expect("readable"), written);
    let (_, listed) = run(&["peer", "list", "--data-dir", &data], &[]).await;
    assert!(listed.contains("laptop") && !listed.contains("phone"), "nobody is added without a file:\n{listed}");
    let (code, output) = add("laptop", path("again.conf")).await;
    assert!(code == Some(2) && output.contains("named laptop already"), "{output}");
    assert!(!Path::new(&path("again.conf")).exists(), "and no file is left without a peer");
}

#[tokio::test]
async fn what_an_added_peer_cannot_do_is_said_beside_its_configuration() {
    in_namespace("beside").await;
}

#[tokio::test]
#[ignore = "run by another test, in a namespace"]
async fn beside() {
    let demo = Up::demo().await;
    let add = |up: &Up, what: &str| {
        let line = format!("{} peer add {what} --data-dir {}", binary().display(), up.ready["data_dir"]);
        let folder = up.folder.path().to_owned();
        async move { shell(&line, &folder).await }
    };
    let elsewhere = "--endpoint vpn.example.com:51820";
    let (conf, told) = add(&demo, &format!("laptop --groups demo {elsewhere}")).await;
    assert!(conf.contains("Endpoint = vpn.example.com:51820"), "{conf}");
    for part in ["hears peers of this machine alone", "`endpoint = \"vpn.example.com:51820\"` under [tunnel]"] {
        assert!(told.contains(part), "{told}");
    }
    let (_, told) = add(&demo, "phone --groups dmeo --endpoint 127.0.0.1:1").await;
    assert!(told.contains("did you mean demo?") && told.lines().count() == 1, "{told}");

    // Who writes a port is heard by every machine, and hears where the port is not the one that peers are told.
    let inside = "[service.inside]\nhost = \"inside.test\"\nupstream = \"http://127.0.0.1:1\"\n\
        access = { private = [\"eng\"] }\n";
    let told = "has to forward the one to the other";
    for (tunnel, forwarded) in [
        ("port = 51820", false),
        ("endpoint = \"vpn.example.com:51820\"", false),
        ("endpoint = \"vpn.example.com:443\"\nport = 51820", true),
    ] {
        let up = Up::with(&format!("[tunnel]\n{tunnel}\n{inside}")).await;
        if forwarded {
            up.process.printed(told).await;
        }
        assert_eq!(up.process.output().contains(told), forwarded, "{tunnel}\n{}", up.process.output());
        let (_, warned) = add(&up, &format!("laptop --groups eng {elsewhere}")).await;
        assert_eq!(warned, "", "{tunnel}");
        up.process.stop().await;
    }
}

#[tokio::test]
async fn another_network_is_told_of_until_the_next_start() {
    let inside = "[service.inside]\nhost = \"inside.test\"\nupstream = \"http://127.0.0.1:1\"\n\
        access = { private = [\"eng\"] }\n";
    let up = Up::with(&format!("[tunnel]\nnetwork = \"10.7.0.0/24\"\n{inside}")).await;
    let data = up.ready["data_dir"].as_str().expect("a path").to_owned();
    let ask = |arguments: &'static [&'static str]| {
        let data = data.clone();
        async move { run(&[arguments, &["--data-dir", &data]].concat(), &[]).await.1 }
    };
    ask(&["peer", "add", "laptop", "--groups", "eng"]).await;
    up.configure(&format!("[tunnel]\nnetwork = \"10.8.0.0/24\"\n{inside}"));
    let Up { process, folder, .. } = up;
    process.stop().await;
    let start = || {
        let file = folder.path().join("postern.toml").into_os_string().into_string().expect("UTF-8");
        let addresses = ["--https", "127.0.0.1:0", "--management", "127.0.0.1:0", "--health-addr", ""];
        Postern::start(&[&["up", &file, "--data-dir", &data][..], &addresses].concat(), &[])
    };
    let process = start();
    let (problem, lost) = ("the tunnel's network is 10.8.0.0/24 since this start", "has other addresses since");
    process.printed(problem).await;
    process.printed("peer add NAME").await;
    assert!(ask(&["status"]).await.contains(problem));
    assert!(ask(&["peer", "list"]).await.contains(lost));
    process.stop().await;
    let process = start();
    process.printed("peer add NAME").await;
    assert!(!process.output().contains(problem), "{}", process.output());
    assert!(!ask(&["status"]).await.contains(problem) && !ask(&["peer", "list"]).await.contains(lost));
}
