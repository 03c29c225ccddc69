//! File systems of our own: in memory, or in an image on a loop device.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use rustix::ioctl::Setter;

/// A file system to test on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tmpfs,
    Ext4,
    Ext4Writeback,
    Xfs,
}

/// A mounted file system. Unmounted and gone when this is dropped, in a panic too.
pub(crate) struct Disk {
    kind: Kind,
    image: PathBuf,
    mounted_at: PathBuf,
    root: Option<tempfile::TempDir>,
}

/// Says on the terminal, past the test harness, why nothing is tested.
pub(crate) fn skip(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: {why}");
}

fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Result<(), String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{program} does not run: {error}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    output.status.success().then_some(()).ok_or(format!("{program} fails: {complaint}"))
}

impl Disk {
    /// A new one of so many MiB, or why there can be none.
    pub(crate) fn new(kind: Kind, mib: u64) -> Result<Disk, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("it needs root".to_owned());
        }
        let root = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, mounted_at) = (root.path().join("image"), root.path().join("mounted"));
        std::fs::create_dir(&mounted_at).map_err(|error| error.to_string())?;
        let make = match kind {
            Kind::Tmpfs => None,
            Kind::Ext4 | Kind::Ext4Writeback => Some(("mkfs.ext4", ["-q", "-F"])),
            Kind::Xfs => Some(("mkfs.xfs", ["-q", "-f"])),
        };
        if let Some((program, args)) = make {
            File::create(&image).unwrap().set_len(mib << 20).unwrap();
            run(program, args.iter().map(OsStr::new).chain([image.as_os_str()]))?;
        }
        let disk = Disk { kind, image, mounted_at, root: Some(root) };
        disk.mount(mib)?;
        Ok(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mounted_at
    }

    fn mount(&self, mib: u64) -> Result<(), String> {
        let at = self.mounted_at.to_str().unwrap();
        let image = self.image.to_str().unwrap();
        match self.kind {
            Kind::Tmpfs => run("mount", ["-t", "tmpfs", "-o", &format!("size={mib}m"), "none", at]),
            Kind::Ext4 | Kind::Xfs => run("mount", ["-o", "loop", image, at]),
            // Lengths may reach the disk before what the files hold.
            Kind::Ext4Writeback => run("mount", ["-o", "loop,data=writeback", image, at]),
        }
    }

    /// A process that another thread is starting may hold the files of this one for a moment.
    fn unmount(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let unmounted = run("umount", [&self.mounted_at]);
            if unmounted.is_ok() || begun.elapsed() > Duration::from_secs(5) {
                return unmounted;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The power goes: nothing reaches the disk from now on, and what the journal holds in memory
    /// is lost.
    pub(crate) fn cut_power(&self) {
        // From the kernel's headers: `_IOR('X', 125, __u32)`, of both file systems.
        const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        const WITHOUT_FLUSHING_THE_LOG: u32 = 2;
        let root = File::open(&self.mounted_at).unwrap();
        // SAFETY: the opcode is valid, and takes a `u32`.
        #[expect(unsafe_code, reason = "there is no safe call for it")]
        let shutdown = unsafe { Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSHING_THE_LOG) };
        // SAFETY: the kernel reads the `u32` and touches no other memory.
        #[expect(unsafe_code, reason = "there is no safe call for it")]
        let done = unsafe { rustix::ioctl::ioctl(&root, shutdown) };
        done.unwrap();
    }

    /// Power comes back: the file system is mounted again from what is on the disk.
    pub(crate) fn restart(&self) {
        self.unmount().unwrap();
        self.mount(0).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.unmount().is_err() {
            // In a panic a file may be open still.
            let _ = run("umount", [OsStr::new("-l"), self.mounted_at.as_os_str()]);
        }
        drop(self.root.take());
    }
}
