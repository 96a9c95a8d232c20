package vendorca

// makers are the companies behind vendor IDs (TCG TPM Vendor ID Registry), and where each
// publishes its CA certificates; empty if we do not know. The table is for hints to people; being
// listed confers no trust.
var makers = map[string]struct{ name, publishes string }{
	"AMD":  {"AMD", "https://ftpm.amd.com/pki/aia/"},
	"ATML": {"Atmel", ""},
	"BRCM": {"Broadcom", ""},
	"GOOG": {"Google", ""},
	"HISI": {"HiSilicon", ""},
	"IBM":  {"IBM", ""},
	"IFX":  {"Infineon", "https://pki.infineon.com/"},
	"INTC": {"Intel", "https://tsci.intel.com/content/OnDieCA/certs/"},
	"MSFT": {"Microsoft", "https://www.microsoft.com/pkiops/certs/"},
	"NSG":  {"NSING", "https://pki.nsing.com.sg/"},
	"NTC":  {"Nuvoton", "https://www.nuvoton.com/security/NTC-TPM-EK-Cert/"},
	"NTZ":  {"Nationz", "https://pki.nationz.com.cn/"},
	"QCOM": {"Qualcomm", ""},
	"ROCC": {"Rockchip", ""},
	"SECE": {"SecEdge", ""},
	"SMSN": {"Samsung", ""},
	"STM":  {"STMicroelectronics", "https://sw-center.st.com/STSAFE/ and https://secure.globalsign.com/cacert/"},
	"TXN":  {"Texas Instruments", ""},
	"WEC":  {"Winbond", ""},
}
