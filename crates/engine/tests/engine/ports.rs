//! Published ports. The guest's loopback is the host's, so a test's own server is the guest's.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use banger_api::{CreateVm, ErrorKind, PortProtocol, Publish, Remedy, Vmm};
use libtest_mimic::Trial;

use crate::{
    driver::{
        Command, create, delete, pause, publish, restart, result_of, resume, small, start, stop, unpublish,
        vm,
    },
    host::{Host, VMMS, run},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    let on_each = VMMS.into_iter().flat_map(|vmm| {
        [
            trial(format!("ports::a_port_is_open_while_its_vm_runs::{vmm:?}"), move || {
                run(a_port_is_open_while_its_vm_runs(vmm))
            }),
            trial(format!("ports::a_port_is_open_again_after_the_daemons_death::{vmm:?}"), move || {
                a_port_is_open_again_after_the_daemons_death(vmm)
            }),
        ]
    });
    let others =
        [
            trial("ports::a_taken_port_prevents_a_new_vm_and_names_its_owner", || {
                run(a_taken_port_prevents_a_new_vm_and_names_its_owner())
            }),
            trial("ports::a_taken_port_does_not_prevent_a_start", || {
                run(a_taken_port_does_not_prevent_a_start())
            }),
            trial("ports::a_port_that_may_be_another_is_replaced", || {
                run(a_port_that_may_be_another_is_replaced())
            }),
            trial("ports::much_data_passes_and_many_connections", || {
                run(much_data_passes_and_many_connections())
            }),
        ];
    on_each.chain(others).collect()
}

/// A server in the guest, which answers each client with what it has sent, once it has ended that.
fn server() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut from, mut to) = (client.try_clone()?, client);
                let mut all = Vec::new();
                from.read_to_end(&mut all)?;
                to.write_all(&all)
            });
        }
    });
    Ok(address)
}

/// Sends bytes to a port and returns the answer.
fn exchange(port: u16, sent: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Like [`exchange`], without blocking the engine of this process.
async fn exchange_async(port: u16, sent: &'static [u8]) -> Result<Vec<u8>> {
    Ok(tokio::task::spawn_blocking(move || exchange(port, sent)).await??)
}

/// Returns a port to publish, of which the host's is free.
pub(crate) fn port_to(guest: u16) -> Result<Publish> {
    Ok(Publish { address: None, host: free_port()?, guest, protocol: PortProtocol::Tcp })
}

/// Returns a free port that neither another test nor the kernel chooses: below those of outgoing connections, and not
/// among those of the engine's unit tests, which run at the same time.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Another test run begins elsewhere.
    let first = u16::try_from(std::process::id() % 100)? * 100 + 21_000;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
}

async fn is_refused(port: u16) -> bool {
    exchange_async(port, b"").await.is_err()
}

async fn a_port_is_open_while_its_vm_runs(vmm: Vmm) -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    let port = port_to(server()?.port())?;
    result_of(create(&engine, CreateVm { publish: vec![port], ..small("box", "tiny", vmm)? })).await?;
    let published = vm(&engine, "box")?.published;
    ensure!(published.len() == 1 && published[0].open && published[0].publish() == port, "{published:?}");
    ensure!(exchange_async(port.host, b"hello").await? == b"hello");

    result_of(restart(&engine, "box")).await?;
    ensure!(exchange_async(port.host, b"again").await? == b"again");
    result_of(pause(&engine, "box")).await?;
    result_of(resume(&engine, "box")).await?;
    ensure!(exchange_async(port.host, b"on").await? == b"on");
    result_of(stop(&engine, "box", 60)).await?;
    ensure!(is_refused(port.host).await, "the port of a stopped VM is open");
    ensure!(vm(&engine, "box")?.published.iter().all(|port| !port.open && port.error.is_none()));
    result_of(start(&engine, "box")).await?;
    ensure!(exchange_async(port.host, b"started").await? == b"started");

    // Nothing listens there in the guest: the connection is closed at once.
    let silent = port_to(port_to(1)?.host)?;
    result_of(publish(&engine, "box", &[silent, silent])).await?;
    let began = Instant::now();
    ensure!(exchange_async(silent.host, b"").await?.is_empty());
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // A second time, nothing changes.
    result_of(publish(&engine, "box", &[silent])).await?;
    ensure!(vm(&engine, "box")?.published.len() == 2);

    let selector = |text: String| text.parse().context(text);
    let missing = selector(format!("{}:{}", silent.host, silent.guest - 1))?;
    let both = [selector(port.host.to_string())?, missing];
    let error = result_of(unpublish(&engine, "box", &both)).await.err().context("it was unpublished")?;
    ensure!(error.kind == ErrorKind::NotFound && error.remedy == Some(Remedy::ShowPublished), "{error}");
    ensure!(vm(&engine, "box")?.published.len() == 2, "one of the two was unpublished");
    result_of(unpublish(&engine, "box", &both[..1])).await?;
    ensure!(is_refused(port.host).await, "an unpublished port is open");
    result_of(unpublish(&engine, "box", &[])).await?;
    ensure!(vm(&engine, "box")?.published.is_empty() && is_refused(silent.host).await);
    result_of(delete(&engine, "box", true)).await?;
    host.check_nothing_left()
}

fn a_port_is_open_again_after_the_daemons_death(vmm: Vmm) -> Result<()> {
    let mut host = Host::new()?;
    let name = || "box".to_owned();
    let port = port_to(server()?.port())?;
    host.send_ok(Command::CreateVm { name: name(), image: "tiny".to_owned(), vmm, start: true })?;
    host.send_ok(Command::PublishPort { vm: name(), port })?;
    ensure!(exchange(port.host, b"hello")? == b"hello");
    host.kill_daemon()?;
    ensure!(exchange(port.host, b"").is_err(), "the port is open without a daemon");
    host.send_ok(Command::Open)?;
    ensure!(exchange(port.host, b"again")? == b"again");
    Ok(())
}

async fn a_taken_port_prevents_a_new_vm_and_names_its_owner() -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    let with = |name: &str, ports: &[Publish]| -> Result<_> {
        Ok(create(&engine, CreateVm { publish: ports.to_vec(), ..small(name, "tiny", Vmm::Firecracker)? }))
    };
    let failure = async |name: &str, ports: &[Publish]| -> Result<_> {
        let error = result_of(with(name, ports)?).await.err().context("the port was published")?;
        ensure!(vm(&engine, name).is_err(), "VM {name} was created: {error}");
        Ok(error)
    };
    let port = port_to(80)?;
    let free = port_to(81)?;
    result_of(with("web", &[port])?).await?;
    let error = failure("other", &[free, port]).await?;
    ensure!(error.message == format!("port {} of this host is published by VM web", port.host), "{error}");
    let remedy = Remedy::UnpublishPort { vm: "web".to_owned(), port: port.host };
    ensure!(error.kind == ErrorKind::Busy && error.remedy == Some(remedy), "{error:?}");
    let service = TcpListener::bind("127.0.0.1:0")?;
    let taken = Publish { host: service.local_addr()?.port(), ..port };
    let error = failure("other", &[free, taken]).await?;
    let owner = format!("port {} of this host is used by process {} (", taken.host, std::process::id());
    ensure!(error.message.starts_with(&owner), "{error}");
    ensure!(error.remedy == Some(Remedy::PublishElsewhere), "{error:?}");
    // A failure reserves nothing.
    TcpListener::bind(("127.0.0.1", free.host))?;
    let error = failure("other", &[Publish { address: Some("192.0.2.1".parse()?), ..free }]).await?;
    ensure!(error.kind == ErrorKind::Invalid, "{error}");
    ensure!(error.message == "this host does not have the address 192.0.2.1", "{error}");
    let error = failure("other", &[Publish { host: 0, ..free }]).await?;
    ensure!(error.kind == ErrorKind::Invalid, "{error}");
    // All of a request or nothing.
    let error = result_of(publish(&engine, "web", &[free, taken])).await.err().context("published")?;
    ensure!(error.message.starts_with(&owner), "{error}");
    ensure!(vm(&engine, "web")?.published.len() == 1 && is_refused(free.host).await);
    Ok(())
}

async fn a_taken_port_does_not_prevent_a_start() -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    let port = port_to(server()?.port())?;
    let request = small("box", "tiny", Vmm::Firecracker)?;
    result_of(create(&engine, CreateVm { publish: vec![port], no_start: true, ..request })).await?;
    let service = TcpListener::bind(("127.0.0.1", port.host))?;
    result_of(start(&engine, "box")).await?;
    let state = vm(&engine, "box")?.published.remove(0);
    ensure!(!state.open && state.error.is_some_and(|error| error.contains("is used by process")));
    drop(service);
    // It is tried again on request, not at every change of the VM.
    result_of(pause(&engine, "box")).await?;
    result_of(resume(&engine, "box")).await?;
    ensure!(!vm(&engine, "box")?.published[0].open);
    result_of(publish(&engine, "box", &[port])).await?;
    ensure!(vm(&engine, "box")?.published[0].open);
    ensure!(exchange_async(port.host, b"hello").await? == b"hello");
    Ok(())
}

async fn a_port_that_may_be_another_is_replaced() -> Result<()> {
    let host = Host::new()?;
    let engine = host.open().await?;
    let service = TcpListener::bind("127.0.0.1:0")?;
    let free = port_to(81)?;
    let taken = Publish { host: service.local_addr()?.port(), guest: server()?.port(), ..free };
    let request = small("box", "tiny", Vmm::Firecracker)?;
    result_of(create(&engine, CreateVm { publish_or_other: vec![taken, free], ..request })).await?;
    let published = vm(&engine, "box")?.published;
    ensure!(published[0].host != taken.host && published[1].publish() == free, "{published:?}");
    ensure!(exchange_async(published[0].host, b"hello").await? == b"hello");
    Ok(())
}

async fn much_data_passes_and_many_connections() -> Result<()> {
    const DATA: &[u8] = &[7; 20 << 20];
    const CONNECTIONS: u32 = 300;
    let host = Host::new()?;
    let engine = host.open().await?;
    let port = port_to(server()?.port())?;
    let request = small("box", "tiny", Vmm::Firecracker)?;
    result_of(create(&engine, CreateVm { publish: vec![port], ..request })).await?;
    ensure!(exchange_async(port.host, DATA).await? == DATA);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            tokio::task::spawn_blocking(move || {
                (0..CONNECTIONS).try_for_each(|_| match exchange(port.host, b"hello") {
                    Ok(answer) if answer == b"hello" => Ok(()),
                    Ok(answer) => Err(io::Error::other(format!("{answer:?}"))),
                    Err(error) => Err(error),
                })
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(())
}
