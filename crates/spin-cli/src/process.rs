//! What Linux tells about this process and its machine. Elsewhere, and where a
//! file is not as it is known, there is no answer.

use std::fs;
use std::path::Path;

/// The value of `key` in a file of lines `key: value`, such as
/// `/proc/self/status`; the first, where there are several.
pub fn field(file: &str, key: &str) -> Option<String> {
    in_text(&fs::read_to_string(file).ok()?, key)
}

fn in_text(text: &str, key: &str) -> Option<String> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    Some(fields.find(|(name, _)| name.trim_end() == key)?.1.trim().to_owned())
}

/// The same of an amount of memory, in bytes.
fn memory(file: &str, key: &str) -> Option<u64> {
    Some(field(file, key)?.trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// The machine's NVIDIA GPUs, by what their driver calls them, in the order of
/// their places on the bus. `dir` is where the driver lists them; which of them a
/// program sees is another question.
pub fn gpus(dir: &Path) -> Vec<String> {
    let mut places: Vec<_> =
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    places.sort();
    places.iter().filter_map(|place| field(&place.join("information").display().to_string(), "Model")).collect()
}

/// Largest resident memory of this process so far, in MiB, where the system
/// tells.
pub fn peak_memory_mib() -> Option<u64> {
    memory("/proc/self/status", "VmHWM").map(|bytes| bytes >> 20)
}

/// Resident memory of this process now, in bytes, where the system tells.
pub fn resident_memory() -> Option<u64> {
    memory("/proc/self/status", "VmRSS")
}

/// The same in MiB.
pub fn resident_memory_mib() -> Option<f64> {
    resident_memory().map(|bytes| bytes as f64 / f64::from(1 << 20))
}

/// Bytes of memory that this process may still take without swapping: what the
/// system has to give, or less where a control group says so. `None` where
/// nobody tells.
pub fn available_memory() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let system = memory("/proc/meminfo", "MemAvailable")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // Slurm's limit may be on a group above the process's own; files that were
    // read and can be dropped count as used.
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, own) = (fields.next().unwrap_or_default(), fields.next().unwrap_or("/").to_owned());
        let (root, limit, used, dropped) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "),
            "memory" => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
            }
            _ => return Vec::new(),
        };
        let left = Path::new(&own).ancestors().filter_map(|group| {
            let file = |name: &str| format!("{root}{}/{name}", group.display().to_string().trim_end_matches('/'));
            let stat = fs::read_to_string(file("memory.stat")).unwrap_or_default();
            let dropped = stat.lines().find_map(|line| line.strip_prefix(dropped)?.trim().parse::<u64>().ok());
            let used = number(&file(used))?.saturating_sub(dropped.unwrap_or(0));
            Some(number(&file(limit))?.saturating_sub(used))
        });
        left.collect()
    });
    limits.chain([system]).min()
}

/// The processor's name, where the system tells: another one may round in
/// another way.
pub fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if let Some(name) = in_text(&info, "model name") {
        return name;
    }
    // ARM has numbers.
    let parts = ["CPU implementer", "CPU part", "CPU variant", "CPU revision"];
    let parts = parts.into_iter().filter_map(|key| in_text(&info, key));
    [std::env::consts::ARCH.to_owned()].into_iter().chain(parts).collect::<Vec<_>>().join(" ")
}

/// The machine's name.
pub(crate) fn host() -> Option<String> {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(host.trim().to_owned()).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: A: B\nmodel name\t: C\nVmRSS:\t  12 kB\n";
        assert_eq!(in_text(text, "model").as_deref(), Some("17"));
        assert_eq!(in_text(text, "model name").as_deref(), Some("A: B"));
        assert_eq!(in_text(text, "VmRSS").as_deref(), Some("12 kB"));
        assert_eq!(in_text(text, "name"), None);
    }

    #[test]
    fn gpus_are_named_as_their_driver_does() {
        let dir = tempfile::tempdir().unwrap();
        for (place, model) in [("0000:b1:00.0", "NVIDIA H100 80GB HBM3"), ("0000:3b:00.0", "NVIDIA A100-SXM4-40GB")] {
            let place = dir.path().join(place);
            fs::create_dir(&place).unwrap();
            fs::write(place.join("information"), format!("Model: \t\t {model}\nIRQ:   \t\t 17\n")).unwrap();
        }
        assert_eq!(gpus(dir.path()), ["NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"]);
        assert!(gpus(&dir.path().join("none")).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_told_in_bytes() {
        // Seen from outside, so that it is really there.
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let (now, peak, left) = (resident_memory().unwrap(), peak_memory_mib().unwrap(), available_memory().unwrap());
        assert!(now >= block.len() as u64 && now >> 20 <= peak, "{now} {peak}");
        assert!(left > 1 << 20 && !processor().is_empty(), "{left}");
    }
}
